"""What comes before a step: its seed, and before the first one what a guess keeps."""

from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.utilities.seed import isolate_rng


def seed_step(seed: int, number: int, *own: int) -> None:
    """Seed torch's default generator for one step.

    Args:
        seed: of the run.
        number: of the step.
        *own: of the process, where it draws for its own samples.
    """
    torch.manual_seed(int(np.random.SeedSequence([seed, number, *own]).generate_state(1)[0]))


class SetUp(L.Callback):
    """Gives the blocks what their guess keeps, from the first batch, before a callback behind it copies the network.

    Nothing moves besides: no generator, and not the data, unless they are an iterator, of which nothing is taken.
    """

    @classmethod
    def put_first(cls, module: Any) -> None:
        """Have one before all other callbacks: each is set up in its turn, and all before the module."""
        callbacks = module.trainer.callbacks
        if module.estimator.guess.keeps and not any(isinstance(callback, cls) for callback in callbacks):
            callbacks.insert(0, cls())

    def setup(self, trainer: L.Trainer, pl_module: Any, stage: str) -> None:
        """See ``Guess.set_up``."""
        device = trainer.strategy.root_device
        with isolate_rng():
            loader = trainer.fit_loop._data_source.dataloader() if stage == "fit" else ()
            if iter(loader) is loader:
                return
            for batch in loader:
                batch = pl_module._on_before_batch_transfer(batch)
                images, _ = pl_module._apply_batch_transfer_handler(batch, device)
                seed_step(pl_module.seed, 0)
                pl_module.to(device).estimator.guess.set_up(pl_module.model.blocks, images)
                break
