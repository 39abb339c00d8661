"""The data sets that lie in memory, on the device that trains on them, as a Lightning data module."""

from pathlib import Path
from typing import Any, Protocol

import torch

from fglight.data.base import DataModule, require
from fglight.data.batches import Batches
from fglight.data.sources import ImageSet
from fglight.data.splits import holdout_split


class Source(Protocol):
    """What a data set has to offer: the facts of its images, and their arrays."""

    num_classes: int
    shape: tuple[int, int, int]
    """(channels, height, width) of every image."""

    def prepare(self, root: Path, may_download: bool) -> None:
        """Make sure that the files are there, or raise a ``DataError``."""

    def load(self, root: Path) -> tuple[ImageSet, ImageSet]:
        """The training and the test images, or a ``DataError``."""


class ImageDataModule(DataModule):
    """Images as one uint8 tensor on the training device, cropped, flipped and normalised there.

    The order and the augmentation of an epoch follow from (seed, epoch) alone, so a run resumed at the end of an
    epoch sees the batches that it would have seen without a break.

    Args:
        source: where the images come from.
        train_images: how many of the training images, from the first on, there are to train on, and to hold some out
            of; None: all.
        **settings: the settings of ``DataModule``.

    Raises:
        ConfigError: a setting is out of range or does not fit the data set.
    """

    def __init__(self, *, source: Source, train_images: int | None = None, **settings: Any) -> None:
        super().__init__(**settings)
        channels, height, _ = source.shape
        for setting, fitting in (
            ("num_classes", source.num_classes),
            ("in_channels", channels),
            ("image_size", height),
        ):
            value = settings[setting]
            require(value == fitting, setting, value, f"{fitting}, as in the files of {self.name}")
        self.source = source
        self.train_images = train_images
        self._train: ImageSet | None = None
        self._test: ImageSet | None = None

    def prepare_data(self) -> None:
        """Download what is missing.

        Raises:
            DataError: a file is missing and was not downloaded.
        """
        self.source.prepare(self.root, self.download)

    def setup(self, stage: str | None = None) -> None:
        """Load the images, once, and put them on the trainer's device (the CPU without a trainer).

        Args:
            stage: ignored, all stages share the images.

        Raises:
            DataError: a file is missing or damaged.
            ConfigError: there are fewer than ``train_images``, or ``holdout`` leaves a part without an image of every
                class.
        """
        if self._train is None:
            train, test = self.source.load(self.root)
            if self.train_images is not None:
                fits = 1 <= self.train_images <= len(train.labels)
                require(fits, "train_images", self.train_images, f"a whole number from 1 to {len(train.labels)}")
                train = ImageSet(*(tensor[: self.train_images] for tensor in train))
            if self.holdout:
                kept, held = holdout_split(train.labels.numpy(), self.holdout)
                train, test = (ImageSet(train.images[part], train.labels[part]) for part in (kept, held))
            self._train, self._test = train, test
        device = self.trainer.strategy.root_device if self.trainer is not None else torch.device("cpu")
        self._train = ImageSet(*(tensor.to(device) for tensor in self._train))
        self._test = ImageSet(*(tensor.to(device) for tensor in self._test))

    def train_dataloader(self) -> Batches:
        """The training batches of the trainer's current epoch (of epoch 0 without a trainer)."""
        self.setup()
        return Batches(
            *self._train,
            batch_size=self.batch_size,
            mean=self.mean,
            std=self.std,
            shuffle=True,
            augment=self.augment,
            seed=self.seed,
            epoch=self.epoch,
            **self.processes,
        )

    def val_dataloader(self) -> Batches:
        """The batches of ``test_dataloader``: the curves of a run are those of the set it is judged on."""
        return self.test_dataloader()

    def test_dataloader(self) -> Batches:
        """The test images, or with ``holdout`` the images held out, in order and only normalised."""
        self.setup()
        return Batches(*self._test, batch_size=self.batch_size, mean=self.mean, std=self.std, **self.processes)
