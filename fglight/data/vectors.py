"""Data sets of vectors and values to predict, for regression, in memory on the device that trains on them."""

from pathlib import Path
from typing import Any, Protocol

import torch

from fglight.data.in_memory import InMemoryDataModule, Samples
from fglight.data.splits import split


class VectorSource(Protocol):
    """What a data set of vectors has to offer."""

    num_classes: int
    """How many numbers a network gives for a sample: values to predict, or classes."""
    features: int

    def load(self, root: Path) -> tuple[Samples, Samples]:
        """The training and the test samples, or a ``DataError``."""


class Diabetes:
    """How far diabetes has come a year after ten measurements of 442 patients (Efron et al., 2004).

    It ships with scikit-learn. One patient in five is kept for testing; measurements and labels have mean 0 and
    standard deviation 1 over those of training.
    """

    num_classes = 1
    features = 10

    def load(self, root: Path) -> tuple[Samples, Samples]:
        """The training and the test samples; nothing is read from ``root``."""
        import sklearn.datasets  # takes seconds

        inputs, values = map(torch.from_numpy, sklearn.datasets.load_diabetes(return_X_y=True, scaled=False))
        everything = Samples(inputs, values[:, None])
        train, test = map(everything.part, split(everything.labels, 0.2))
        moments = [torch.std_mean(tensor, 0) for tensor in train]

        def standardised(samples: Samples) -> Samples:
            return Samples(*(((x - mean) / std).float() for x, (std, mean) in zip(samples, moments)))

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
        facts = {"num_classes": source.num_classes, "in_channels": source.features, "image_size": 1}
        settings |= {"augment": False, "mean": [0.0] * channels, "std": [1.0] * channels}
        super().__init__(source=source, facts=facts, **settings)
