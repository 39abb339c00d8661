"""Batches of what lies in memory, in an order and with an augmentation that follow from (seed, epoch)."""

from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor

from fglight.data.augment import crop_and_flip, draw_crops, normalise
from fglight.errors import ConfigError
from fglight.memory_format import as_memory_format


def batch_shares(
    count: int, batch_size: int, *, training: bool, processes: int = 1, rank: int = 0
) -> list[tuple[int, int]]:
    """Cut an epoch into batches, and each batch into nearly equal shares for processes that work on it together.

    Batch normalisation has no variance to divide by where a process has a single image: for training, a last batch that
    leaves one with less than two is left out. For evaluation, one that leaves a process with none is joined to the
    batch before.

    Args:
        count: number of images.
        batch_size: images a batch, over all processes; the last one may have fewer.
        training: whether these are batches for training.
        processes: number of processes.
        rank: the process, from 0 up.

    Returns:
        First image and one past the last image of this process in each batch, as places in the epoch's order.

    Raises:
        ConfigError: there are too few images for a batch of which every process has a share.
    """
    least = 2 * processes if training else processes
    if count < least:
        kind, settings = ("training", "data.train_images, ") if training else ("test", "")
        raise ConfigError(
            f"a {kind} set must have {least} samples or more on trainer.devices={processes}, got {count}: "
            f"{settings}data.holdout and the data set itself say how many there are"
        )
    bounds = [(start, min(start + batch_size, count)) for start in range(0, count, batch_size)]
    rest = bounds[-1][1] - bounds[-1][0]
    if training and rest < least:
        bounds.pop()
    elif rest < least:
        bounds[-2:] = [(bounds[-2][0], count)]
    return [
        (start + rank * (stop - start) // processes, start + (rank + 1) * (stop - start) // processes)
        for start, stop in bounds
    ]


def epoch_generator(seed: int, epoch: int, device: torch.device | str = "cpu") -> torch.Generator:
    """Make the source of all randomness of one epoch's data.

    Args:
        seed: the run's seed, from 0 up.
        epoch: the epoch, from 0 up.
        device: where the numbers are to be drawn; CPUs and GPUs draw different ones.

    Returns:
        A generator whose state is a hash of seed and epoch, so that neighbouring pairs have unrelated streams.
    """
    state = np.random.SeedSequence([seed, epoch]).generate_state(1, np.uint64)
    return torch.Generator(device).manual_seed(int(state[0]))


class Batches:
    """Iterable over the batches of one epoch, made where the images lie and without worker processes.

    Iterating twice gives the same batches twice. For training (``shuffle``) the order and every image's crop and flip
    are drawn anew for each epoch, and a last batch of a single image is left out because batch normalisation has no
    variance to divide by; otherwise the images come in order, all of them. Several processes that work on the same
    batches draw the same, and each gets its share.

    Args:
        images: uint8, (images, channels, height, width); or anything else that is given out as it is.
        labels: int64, (images,), or of any other kind, on the images' device.
        batch_size: images a batch, over all processes; the last one may have fewer.
        mean: mean of each channel in 0..1 units; None leaves images as they are.
        std: standard deviation of each channel in 0..1 units.
        shuffle: whether these are batches for training.
        augment: whether each image gets its own random crop and flip.
        seed: the run's seed, from 0 up.
        epoch: the epoch to draw for, from 0 up.
        processes: number of processes that share each batch.
        rank: which of them this is, from 0 up.
    """

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        *,
        batch_size: int,
        mean: Sequence[float] | None = None,
        std: Sequence[float] = (),
        shuffle: bool = False,
        augment: bool = False,
        seed: int = 0,
        epoch: int = 0,
        processes: int = 1,
        rank: int = 0,
    ) -> None:
        self.images = images
        self.labels = labels
        shares = partial(batch_shares, len(images), batch_size, training=shuffle, processes=processes)
        self.shares = shares(rank=rank)
        self.wholes = [(first, last) for (first, _), (_, last) in zip(shares(rank=0), shares(rank=processes - 1))]
        self.mean = None if mean is None else torch.tensor(list(mean), dtype=torch.float32, device=images.device)
        self.std = torch.tensor(list(std), dtype=torch.float32, device=images.device)
        self.shuffle = shuffle
        self.augment = augment
        self.seed = seed
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.shares)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield (images, labels): float32 (batch, channels, height, width) and, for classes, int64 (batch,)."""
        count = len(self.images)
        generator = epoch_generator(self.seed, self.epoch, self.images.device)
        # Everything is drawn before the first batch, so that the draws do not depend on how the epoch is cut up.
        order = torch.randperm(count, generator=generator, device=self.images.device) if self.shuffle else None
        crops = draw_crops(count, generator) if self.augment else None

        def places(start: int, stop: int) -> slice | Tensor:
            return slice(start, stop) if order is None else order[start:stop]

        for share, whole in zip(self.shares, self.wholes):
            chosen = places(*share)
            images = self.taken(chosen, places(*whole))
            if crops is not None:
                images = crop_and_flip(images, crops.part(*share))
            images = as_memory_format(images)
            yield images if self.mean is None else normalise(images, self.mean, self.std), self.labels[chosen]

    def taken(self, chosen: slice | Tensor, whole: slice | Tensor) -> Tensor:
        """The inputs of one batch, before they are augmented.

        Args:
            chosen: the places of this process's samples.
            whole: those of all processes'.
        """
        return self.images[chosen]
