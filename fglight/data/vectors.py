"""Data sets of vectors and values to predict, for regression, in memory on the device that trains on them."""

from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from fglight.data.in_memory import InMemoryDataModule
from fglight.data.splits import random_split
from fglight.errors import ConfigError


class VectorSet(NamedTuple):
    """Vectors and what is to be predicted of them."""

    inputs: Tensor
    """float32, (samples, features)."""
    labels: Tensor
    """(samples, outputs) of float32, or (samples,) of int64 for classes."""

    def part(self, chosen: Any) -> "VectorSet":
        """Some of the samples."""
        return VectorSet(self.inputs[chosen], self.labels[chosen])


class VectorSource(Protocol):
    """What a data set of vectors has to offer."""

    num_classes: int
    """How many numbers a network gives for a sample: values to predict, or classes."""
    features: int

    def load(self, root: Path) -> tuple[VectorSet, VectorSet]:
        """The training and the test samples, or a ``DataError``."""


class Diabetes:
    """How far diabetes has come a year after ten measurements of 442 patients (Efron et al., 2004).

    It ships with scikit-learn. One patient in five is kept for testing; measurements and labels have mean 0 and
    standard deviation 1 over those of training.
    """

    num_classes = 1
    features = 10

    def load(self, root: Path) -> tuple[VectorSet, VectorSet]:
        """The training and the test samples; nothing is read from ``root``."""
        import sklearn.datasets  # takes seconds

        inputs, values = map(torch.from_numpy, sklearn.datasets.load_diabetes(return_X_y=True, scaled=False))
        everything = VectorSet(inputs, values[:, None])
        train, test = (everything.part(chosen) for chosen in random_split(len(inputs), 0.2))
        moments = [torch.std_mean(tensor, 0) for tensor in train]

        def standardised(samples: VectorSet) -> VectorSet:
            return VectorSet(*(((x - mean) / std).float() for x, (std, mean) in zip(samples, moments)))

        return standardised(train), standardised(test)


class VectorDataModule(InMemoryDataModule):
    """Vectors as one tensor on the training device.

    Args:
        source: where the vectors come from.
        **settings: the settings of ``DataModule`` but for those of images.

    Raises:
        ConfigError: a setting is out of range or does not fit the data set.
    """

    def __init__(self, *, source: VectorSource, **settings: Any) -> None:
        channels = settings["in_channels"]
        super().__init__(augment=False, mean=[0.0] * channels, std=[1.0] * channels, **settings)
        facts = {"num_classes": source.num_classes, "in_channels": source.features, "image_size": 1}
        self.check_facts(settings, self.name, **facts)
        self.source = source

    def read(self) -> tuple[VectorSet, VectorSet]:
        """See ``InMemoryDataModule``.

        Raises:
            ConfigError: ``holdout`` leaves a part without a sample.
        """
        train, test = self.source.load(self.root)
        if not self.holdout:
            return train, test
        try:
            kept, held = random_split(len(train.inputs), self.holdout)
        except ValueError as error:
            raise ConfigError(
                f"data.holdout={self.holdout} is not possible: accepted is a fraction that keeps and holds "
                f"out a sample ({error})"
            ) from error
        return train.part(kept), train.part(held)
