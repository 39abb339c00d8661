"""A folder of images for each class: small sets in memory on the training device, others streamed."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torchvision import datasets
from torchvision.transforms import v2

from fglight.data.base import DataModule, require
from fglight.data.in_memory import ImageDataModule, Samples
from fglight.data.streamed import FolderDataModule, check_classes, open_folders

SMALL = 2**30
"""Bytes of pixels up to which a set lies in memory where nothing else is said."""


class ImageFolders:
    """The images of ``train/CLASS/`` and ``val/CLASS/``, as a source of ``ImageDataModule``.

    Args:
        num_classes: number of class folders.
        shape: (channels, height, width) of every image.
        resize: whether images are of any size, scaled so that the shorter side fits, and cropped centrally; else all
            must have this shape.
    """

    def __init__(self, num_classes: int, shape: tuple[int, int, int], resize: bool) -> None:
        self.num_classes = num_classes
        self.shape = shape
        self.resize = resize

    def prepare(self, root: Path, may_download: bool) -> None:
        """Does nothing: what is missing, loading tells."""

    def load(self, root: Path) -> tuple[Samples, Samples]:
        """Read all images.

        Raises:
            DataError: a folder is missing or has no images, ``train`` and ``val`` have different classes, or a file is
                damaged or another kind of image.
            ConfigError: ``num_classes`` is not the number of class folders.
        """
        train, test = self._open(root)
        check_classes(self.num_classes, train)
        return _samples(train), _samples(test)

    def bytes(self, root: Path) -> int:
        """How much memory the pixels take.

        Raises:
            DataError: as ``load``, of the folders.
        """
        channels, height, width = self.shape
        return sum(map(len, self._open(root))) * channels * height * width

    def _open(self, root: Path) -> tuple[datasets.ImageFolder, datasets.ImageFolder]:
        channels, side, _ = self.shape
        fit = [v2.Resize(side, antialias=True), v2.CenterCrop(side)] if self.resize else []
        transform = v2.Compose([v2.ToImage(), *fit, v2.ToPureTensor()])
        return open_folders(
            root, channels=channels, side=None if self.resize else side, transforms=(transform, transform)
        )


def _samples(images: datasets.ImageFolder) -> Samples:
    return Samples(torch.stack([pixels for pixels, _ in images]), torch.tensor(images.targets))


def image_folder(
    *,
    num_classes: int,
    in_channels: int,
    image_size: int,
    root: str | Path,
    mean: float | Sequence[float],
    std: float | Sequence[float],
    resize: bool = False,
    stream: bool | None = None,
    num_workers: int = 4,
    **settings: Any,
) -> DataModule:
    """The data module of a folder with ``train/CLASS/*.png`` or ``*.jpg``, and ``val/CLASS/`` with the same classes.

    Args:
        num_classes: number of class folders.
        in_channels: 1 where all images are grey; 3, which grey images are turned into.
        image_size: height and width of an image in pixels.
        root: the folder.
        mean: mean of each channel, in 0..1 units, or of all channels.
        std: standard deviation of each channel, in 0..1 units, or of all channels.
        resize: whether images are of any size, scaled so that the shorter side fits, and cropped; else all must have
            ``image_size``.
        stream: whether worker processes read the images as training goes; else they lie on the training device. None:
            where their pixels take more than a gigabyte.
        num_workers: processes that read images as training goes, 0 for none.
        **settings: the other settings of ``DataModule``.

    Returns:
        One that streams the images, or one that keeps them in memory.

    Raises:
        ConfigError: a setting is out of range.
        DataError: a folder is missing or has no images, or ``train`` and ``val`` have different classes.
    """
    require(in_channels in (1, 3), "in_channels", in_channels, "1 or 3")
    settings |= {"num_classes": num_classes, "in_channels": in_channels, "image_size": image_size, "root": root}
    for name, value in (("mean", mean), ("std", std)):
        settings[name] = [value] * in_channels if isinstance(value, int | float) else value
    streamed = FolderDataModule(resize=resize, num_workers=num_workers, **settings)
    images = ImageFolders(num_classes, (in_channels, image_size, image_size), resize)
    if images.bytes(streamed.root) > SMALL if stream is None else stream:
        return streamed
    return ImageDataModule(source=images, **settings)
