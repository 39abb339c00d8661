"""What comes before a step: its seed, and before the first one what a guess keeps and a look at the test set."""

from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.utilities.seed import isolate_rng

from fglight.errors import ConfigError


def seed_step(seed: int, number: int, *own: int) -> None:
    """Seed torch's default generator for one step.

    Args:
        seed: of the run.
        number: of the step.
        *own: of the process, where it draws for its own samples.
    """
    torch.manual_seed(int(np.random.SeedSequence([seed, number, *own]).generate_state(1)[0]))


class NeedTests(L.Callback):
    """Refuses to train where nothing tells how well; a loader without a length tells after an epoch."""

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Look how many batches of testing there are to be.

        Raises:
            ConfigError: none.
        """
        self._check(sum(trainer.num_val_batches))

    def on_validation_start(self, *_: Any) -> None:
        """Count those that come."""
        self.came = 0

    def on_validation_batch_start(self, *_: Any) -> None:
        """See above."""
        self.came += 1

    def on_validation_end(self, *_: Any) -> None:
        """Look whether any came.

        Raises:
            ConfigError: none.
        """
        self._check(self.came)

    def _check(self, batches: float) -> None:
        if not batches:
            raise ConfigError("data must give a batch to test on, and its val_dataloader gives none")


class SetUp(L.Callback):
    """Gives the blocks what their guess keeps, from the first batch, before a callback behind it copies the network.

    Nothing moves besides: no generator, and not the data, unless they are an iterator, of which nothing is taken.
    """

    @classmethod
    def put_first(cls, module: Any) -> None:
        """Have one before all other callbacks: each is set up in its turn, and all before the module."""
        callbacks = module.trainer.callbacks
        if not any(isinstance(callback, cls) for callback in callbacks):
            callbacks.insert(0, cls())

    def setup(self, trainer: L.Trainer, pl_module: Any, stage: str) -> None:
        """See ``Guess.set_up``."""
        if stage != "fit" or not pl_module.estimator.guess.keeps:
            return
        device = trainer.strategy.root_device
        with isolate_rng():
            loader = trainer.fit_loop._data_source.dataloader()
            if iter(loader) is loader:
                return
            for batch in loader:
                batch = pl_module._on_before_batch_transfer(batch)
                images, _ = pl_module._apply_batch_transfer_handler(batch, device)
                seed_step(pl_module.seed, 0)
                pl_module.to(device).estimator.guess.set_up(pl_module.model.blocks, images)
                break
