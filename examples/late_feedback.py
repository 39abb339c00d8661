"""Feedback for the late blocks alone, or late in training alone; local learning elsewhere. Two components of your own.

fglight train --config-dir examples/conf guess=local target=late_blocks target.first=4 perturb=weight aux=mlp
fglight train --config-dir examples/conf guess=local callbacks=late_feedback perturb=weight aux=mlp

Where the target is local, so is the learning: the direction of ``guess=local`` is the local gradient itself.
"""

from collections.abc import Iterator, Sequence

import lightning as L

from fglight.estimators import GlobalTarget, LocalTarget, Target
from fglight.estimators.passes import BlockPass
from fglight.estimators.targets import Points, TargetGradient
from fglight.training.module import ForwardGradientModule


class LateBlocksTarget(Target):
    """The gradient of the network's loss for the blocks from ``first`` on, of their own local losses before it.

    Args:
        first: the first block with feedback: 0 is the global target, the last block's number the local one.
    """

    uses_auxiliaries = True
    reach = None

    def __init__(self, first: int) -> None:
        self.first = first

    def __call__(
        self, passes: Sequence[BlockPass], points: Points, *, keep: bool = True
    ) -> Iterator[tuple[BlockPass, TargetGradient]]:
        """See ``Target``."""
        yield from GlobalTarget()(passes[self.first :], points, keep=keep)
        yield from LocalTarget()(passes[: self.first + 1], points, keep=keep)


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
