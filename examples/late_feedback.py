"""Feedback for the late blocks alone, or late in training alone; local learning elsewhere. Two components of your own.

fglight train --config-dir examples/conf guess=local target=late_blocks target.first=4 perturb=weight aux=mlp
fglight train --config-dir examples/conf guess=local callbacks=late_feedback perturb=weight aux=mlp

Where the target is local, so is the learning: the direction of ``guess=local`` is the local gradient itself.
"""

import lightning as L

from fglight.estimators import LocalTarget, Target
from fglight.training.module import ForwardGradientModule


class LateBlocksTarget(Target):
    """The gradient of the network's loss for the blocks from ``first`` on, of their own local losses before it.

    Args:
        first: the first block with feedback: 0 is the global target, the last block's number the local one.
    """

    uses_auxiliaries = True

    def __init__(self, first: int) -> None:
        self.first = first

    def loss_block(self, j: int, last: int) -> int:
        """See ``Target``."""
        return last if j >= self.first else j


class LateFeedback(L.Callback):
    """The local target until an epoch begins, and from then on the run's own.

    Args:
        epoch: the first epoch with the run's own target.
    """

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch

    def on_fit_start(self, trainer: L.Trainer, module: ForwardGradientModule) -> None:
        """Note the run's own target."""
        self.own = module.estimator.target

    def on_train_epoch_start(self, trainer: L.Trainer, module: ForwardGradientModule) -> None:
        """Choose the epoch's target."""
        module.estimator.target = LocalTarget() if trainer.current_epoch < self.epoch else self.own
