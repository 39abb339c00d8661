"""Data sets that lie in memory, on the device that trains on them, as Lightning data modules."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from fglight.data.base import DataModule, require
from fglight.data.batches import Batches
from fglight.data.splits import holdout_split


class Samples(NamedTuple):
    """What a network takes in, and what it is to give."""

    inputs: Tensor
    """uint8, (images, channels, height, width); float32, (samples, features); or integers, (texts, 2, length)."""
    labels: Tensor
    """int64, (samples,), for classes; or anything else, a row a sample."""

    def part(self, chosen: Any) -> "Samples":
        """Some of the samples."""
        return Samples(self.inputs[chosen], self.labels[chosen])


class Source(Protocol):
    """What a data set of images has to offer: the facts of its images, and their arrays."""

    num_classes: int
    shape: tuple[int, int, int]
    """(channels, height, width) of every image."""

    def prepare(self, root: Path, may_download: bool) -> None:
        """Make sure that the files are there, or raise a ``DataError``."""

    def load(self, root: Path) -> tuple[Samples, Samples]:
        """The training and the test images, or a ``DataError``."""


class InMemoryDataModule(DataModule):
    """Samples as tensors on the training device.

    The order and the augmentation of an epoch follow from (seed, epoch) alone, so a run resumed at the end of an
    epoch sees the batches that it would have seen without a break.

    Args:
        source: its ``load(root)`` gives the samples of training and of testing.
        facts: what the source says that settings must be, by their names.
        train_images: how many of the training samples, from the first on, there are to train on, and to hold some out
            of; None: all.
        **settings: the settings of ``DataModule``.

    Raises:
        ConfigError: a setting is out of range or does not fit the data set.
    """

    def __init__(
        self, *, source: Any, facts: Mapping[str, int], train_images: int | None = None, **settings: Any
    ) -> None:
        super().__init__(**settings)
        for name, fact in facts.items():
            require(settings[name] == fact, name, settings[name], f"{fact}, as in {self.name}")
        self.source = source
        self.train_images = train_images
        self._train: Samples | None = None
        self._test: Samples | None = None

    def load(self) -> tuple[Samples, Samples]:
        """The samples of training and of testing.

        Raises:
            DataError: a file is missing or damaged.
            ConfigError: there are fewer than ``train_images``.
        """
        train, test = self.source.load(self.root)
        count, there = self.train_images, len(train.labels)
        require(count is None or 1 <= count <= there, "train_images", count, f"a whole number from 1 to {there}")
        return train.part(slice(count)), test

    def batches(self, samples: Samples, kind: type[Batches] = Batches, **settings: Any) -> Batches:
        """Batches of some samples, of a kind and with settings of ``Batches``."""
        inputs, labels = samples
        return kind(inputs, labels, batch_size=self.batch_size, **settings, **self.processes)

    def setup(self, stage: str | None = None) -> None:
        """Load the samples, once, and put them on the trainer's device (the CPU without a trainer).

        Args:
            stage: ignored, all stages share the samples.

        Raises:
            DataError: a file is missing or damaged.
            ConfigError: a setting does not go with what was found.
        """
        if self._train is None:
            self._train, self._test = self.load()
            if self.holdout:
                self._train, self._test = map(self._train.part, holdout_split(self._train.labels, self.holdout))
        device = self.trainer.strategy.root_device if self.trainer is not None else torch.device("cpu")
        self._train, self._test = (
            Samples(*(tensor.to(device) for tensor in samples)) for samples in (self._train, self._test)
        )

    def train_dataloader(self) -> Batches:
        """The training batches of the trainer's current epoch (of epoch 0 without a trainer)."""
        self.setup()
        return self.batches(self._train, shuffle=True, augment=self.augment, seed=self.seed, epoch=self.epoch)

    def test_dataloader(self) -> Batches:
        """The test samples, or with ``holdout`` those held out, in order and without augmentation."""
        self.setup()
        return self.batches(self._test)


class ImageDataModule(InMemoryDataModule):
    """Images as one uint8 tensor on the training device, cropped, flipped and normalised there.

    Args:
        source: where the images come from.
        **settings: the settings of ``InMemoryDataModule``.

    Raises:
        ConfigError: a setting is out of range or does not fit the data set.
    """

    def __init__(self, *, source: Source, **settings: Any) -> None:
        channels, height, _ = source.shape
        facts = {"num_classes": source.num_classes, "in_channels": channels, "image_size": height}
        super().__init__(source=source, facts=facts, **settings)

    def check_files(self) -> None:
        """See ``DataModule``; of a source that does not say what downloads its files, anything may be downloaded."""
        if not self.download or getattr(self.source, "fetch", True) is None:
            self.source.prepare(self.root, False)

    def prepare_data(self) -> None:
        """Download what is missing.

        Raises:
            DataError: a file is missing and was not downloaded.
        """
        self.source.prepare(self.root, self.download)

    def batches(self, samples: Samples, kind: type[Batches] = Batches, **settings: Any) -> Batches:
        """See ``InMemoryDataModule``; normalised."""
        return super().batches(samples, kind, mean=self.mean, std=self.std, **settings)
