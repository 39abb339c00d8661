"""What data sets that lie in memory have in common, on the device that trains on them."""

from abc import abstractmethod
from typing import Any

import torch

from fglight.data.base import DataModule, require
from fglight.data.batches import Batches

Samples = Any
"""A named tuple of two tensors: what the network takes in, and labels, a row a sample."""


class InMemoryDataModule(DataModule):
    """Samples as tensors on the training device.

    The order and the augmentation of an epoch follow from (seed, epoch) alone, so a run resumed at the end of an
    epoch sees the batches that it would have seen without a break.
    """

    _train: Samples = None
    _test: Samples = None

    def check_facts(self, settings: dict[str, Any], where: str, **facts: int) -> None:
        """Check settings that are facts of the data set.

        Args:
            settings: those that were given.
            where: what the facts are taken from, in words.
            **facts: what is true, by the settings' names.

        Raises:
            ConfigError: a setting says otherwise.
        """
        for name, fact in facts.items():
            require(settings[name] == fact, name, settings[name], f"{fact}, as in {where}")

    @abstractmethod
    def read(self) -> tuple[Samples, Samples]:
        """The samples of training and of testing, or of what is held out of training in place of the latter."""

    def batches(self, samples: Samples, **settings: Any) -> Batches:
        """Batches of some samples, with settings of ``Batches``."""
        inputs, labels = samples
        return Batches(inputs, labels, batch_size=self.batch_size, **settings, **self.processes)

    def setup(self, stage: str | None = None) -> None:
        """Load the samples, once, and put them on the trainer's device (the CPU without a trainer).

        Args:
            stage: ignored, all stages share the samples.

        Raises:
            DataError: a file is missing or damaged.
            ConfigError: a setting does not go with what was found.
        """
        if self._train is None:
            self._train, self._test = self.read()
        device = self.trainer.strategy.root_device if self.trainer is not None else torch.device("cpu")
        self._train, self._test = (
            type(samples)(*(tensor.to(device) for tensor in samples)) for samples in (self._train, self._test)
        )

    def train_dataloader(self) -> Batches:
        """The training batches of the trainer's current epoch (of epoch 0 without a trainer)."""
        self.setup()
        return self.batches(self._train, shuffle=True, augment=self.augment, seed=self.seed, epoch=self.epoch)

    def val_dataloader(self) -> Batches:
        """The batches of ``test_dataloader``: the curves of a run are those of the set it is judged on."""
        return self.test_dataloader()

    def test_dataloader(self) -> Batches:
        """The test samples, or with ``holdout`` those held out, in order and without augmentation."""
        self.setup()
        return self.batches(self._test)
