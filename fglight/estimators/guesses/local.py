"""The guess from a block's local loss."""

from collections.abc import Sequence
from functools import reduce

import torch
from torch import Tensor

from fglight.autodiff.passes import BlockPass
from fglight.estimators.guesses.base import Guess, stack
from fglight.models.blocks import Block


class LocalGuess(Guess):
    """The gradient of the block's own local loss L_j.

    With ``SeveralAuxiliaries``, L_j is the sum of their losses, and ``combine="sum"`` its gradient: one direction. All
    other combinations are of the gradients of each of their losses, a direction each.
    """

    uses_auxiliaries = True
    combinations = ("sum", "mean", "span", "max")

    def count(self, block: Block) -> int:
        """See ``Guess``: with ``sum`` one, else one for each auxiliary network."""
        return 1 if self.combine == "sum" else self.k * len(block.auxiliaries)

    def directions(self, block_pass: BlockPass) -> Tensor:
        """See ``Guess``."""
        return self.combined(block_pass.local_gradients)

    def combined(self, gradients: Sequence[Tensor]) -> Tensor:
        """The directions from gradients of losses, ``(k, batch, ...)``."""
        return reduce(torch.add, gradients).unsqueeze(0) if self.combine == "sum" else stack(gradients)
