"""What a perturbation is given of a block, and what it gives."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from fglight.estimators.layers import LayerCall
from fglight.estimators.passes import BlockPass


@dataclass
class TargetGradient:
    """The target of one block, where it is known itself.

    Attributes:
        output: with respect to the block's output h_j, in its shape.
        inside: with respect to each of the points that were asked for.
    """

    output: Tensor
    inside: list[Tensor]

    def release(self) -> None:
        """Let go of all of it, for the memory, before the next block's target is computed."""
        self.__dict__.pop("output", None)
        self.inside.clear()


Points = Callable[[BlockPass], Sequence[Tensor | LayerCall]]
"""Chooses points inside a block, parameters or uses of layers (their outputs), at which its target is wanted."""

BlockTarget = tuple[BlockPass, TargetGradient | None]
"""A block and its target; None where the perturbation does without."""

BlockDerivative = Callable[[Tensor], Tensor]
"""Inner products of a block's target with tangents of its output: takes ``(count, batch, ...)``, gives ``(count,
batch)``, one for every sample."""


@dataclass
class Estimate:
    """The estimate of one block's gradient.

    Attributes:
        gradients: a tensor for each trained parameter of the body.
        cosine: mean cosine similarity of guess and target, a scalar; None where it was not asked for.
    """

    gradients: list[Tensor]
    cosine: Tensor | None = None
