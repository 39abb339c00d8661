"""The data sets of images that lie in memory, as a Lightning data module."""

from pathlib import Path
from typing import Any, Protocol

from fglight.data.base import require
from fglight.data.batches import Batches
from fglight.data.in_memory import InMemoryDataModule
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


class ImageDataModule(InMemoryDataModule):
    """Images as one uint8 tensor on the training device, cropped, flipped and normalised there.

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
        where = f"the files of {self.name}"
        self.check_facts(settings, where, num_classes=source.num_classes, in_channels=channels, image_size=height)
        self.source = source
        self.train_images = train_images

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

    def read(self) -> tuple[ImageSet, ImageSet]:
        """See ``InMemoryDataModule``.

        Raises:
            DataError: a file is missing or damaged.
            ConfigError: there are fewer than ``train_images``, or ``holdout`` leaves a part without an image of every
                class.
        """
        train, test = self.source.load(self.root)
        if self.train_images is not None:
            fits = 1 <= self.train_images <= len(train.labels)
            require(fits, "train_images", self.train_images, f"a whole number from 1 to {len(train.labels)}")
            train = ImageSet(*(tensor[: self.train_images] for tensor in train))
        if self.holdout:
            kept, held = holdout_split(train.labels.numpy(), self.holdout)
            train, test = (ImageSet(train.images[part], train.labels[part]) for part in (kept, held))
        return train, test

    def batches(self, samples: ImageSet, **settings: Any) -> Batches:
        """See ``InMemoryDataModule``; normalised."""
        return super().batches(samples, mean=self.mean, std=self.std, **settings)
