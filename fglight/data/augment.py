"""Random crop, horizontal flip and normalisation of whole batches, as a few tensor operations on any device."""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

PADDING = 4
"""Pixels of zeros on each side of an image before it is cropped to its own size again (App. A.3 of the paper)."""


class Crops(NamedTuple):
    """One random crop and flip for each of a number of images."""

    top: Tensor
    """First row of the window in the padded image, 0..2·PADDING, (images,)."""
    left: Tensor
    """First column of the window in the padded image, 0..2·PADDING, (images,)."""
    flip: Tensor
    """Whether the window is mirrored left to right, bool, (images,)."""

    def part(self, start: int, stop: int) -> "Crops":
        """The crops of the images ``start`` to ``stop - 1``."""
        return Crops(*(draws[start:stop] for draws in self))


def draw_crops(count: int, generator: torch.Generator) -> Crops:
    """Draw a crop and, with probability ½, a flip for each image on its own.

    Args:
        count: number of images.
        generator: where the randomness comes from; the draws live on its device.

    Returns:
        The draws, uniform over the (2·PADDING + 1)² windows.
    """
    options: dict[str, Any] = {"generator": generator, "device": generator.device}
    top, left = torch.randint(2 * PADDING + 1, (2, count), **options)
    return Crops(top, left, torch.randint(2, (count,), **options).bool())


def crop_and_flip(images: Tensor, crops: Crops) -> Tensor:
    """Pad images with zeros, crop each to its own window and mirror it if its own draw says so.

    Args:
        images: (batch, channels, height, width), of any dtype.
        crops: one draw for each image, on the images' device.

    Returns:
        Tensor of the shape and dtype of ``images``.
    """
    batch, channels, height, width = images.shape
    padded = pad(images, (PADDING,) * 4)
    row = torch.arange(height, device=images.device)
    column = torch.arange(width, device=images.device)
    column = torch.where(crops.flip[:, None], column.flip(0), column)  # (batch, width)
    rows = crops.top[:, None] + row  # (batch, height)
    columns = crops.left[:, None] + column
    # One gather for both steps: the place of every pixel wanted in the flattened padded image, (batch, height, width).
    places = rows[:, :, None] * padded.shape[3] + columns[:, None, :]
    places = places.view(batch, 1, height * width).expand(-1, channels, -1)
    return padded.view(batch, channels, -1).gather(2, places).view(images.shape)


def normalise(images: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Map bytes to floats of mean 0 and standard deviation 1.

    Args:
        images: uint8, (batch, channels, height, width).
        mean: mean of each channel in 0..1 units, float32, (channels,).
        std: standard deviation of each channel in 0..1 units, float32, (channels,).

    Returns:
        (images / 255 − mean) / std, float32, of the shape of ``images``.
    """
    scale = (1 / (255 * std))[:, None, None]
    shift = (-mean / std)[:, None, None]
    return images.float().mul_(scale).add_(shift)
