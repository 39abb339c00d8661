"""Guesses from the local losses of auxiliary networks that never train."""

from collections.abc import Sequence

import torch
from torch import Tensor

from fglight.autodiff.local_loss import GRADIENT_ALONE
from fglight.autodiff.passes import BlockPass
from fglight.estimators.guesses.local import LocalGuess
from fglight.models.blocks import Block
from fglight.models.initialization import reset_parameters


class FixedNTKGuess(LocalGuess):
    """The gradient of L_j with auxiliary networks that stay as they were drawn (App. B.2)."""

    trains_auxiliaries = False


class NTKGuess(FixedNTKGuess):
    """The gradient of L_j with auxiliary networks that are drawn afresh before every step.

    With several directions, each comes from an auxiliary network of its own, or from ``SeveralAuxiliaries``.
    """

    several = True
    combinations = ("mean", "span", "max", "sum")

    def __init__(self, directions: int = 1, combine: str | None = None) -> None:
        super().__init__(directions, combine)
        self.randomness = "shared" if directions > 1 else None

    def prepare(self, blocks: Sequence[Block]) -> None:
        """Redraw every auxiliary network but the head."""
        for block in blocks[:-1]:
            reset_parameters(block.aux)

    def directions(self, block_pass: BlockPass) -> Tensor:
        """See ``Guess``."""
        gradients = [*block_pass.local_gradients]
        if self.k > 1:
            aux = block_pass.block.aux
            kept = [parameter.detach().clone() for parameter in aux.parameters()]
            with block_pass.network.buffers.again(aux):
                for _ in range(1, self.k):
                    reset_parameters(aux)
                    again = block_pass.network.local_loss(block_pass.block, block_pass.output, GRADIENT_ALONE)
                    gradients += again.gradients or ()
            with torch.no_grad():
                for parameter, value in zip(aux.parameters(), kept):
                    parameter.copy_(value)
        return self.combined(gradients)
