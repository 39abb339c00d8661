"""Gradient targets (Sec. 3.2): the gradient that one would like a block to follow."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from torch import Tensor

from fglight.estimators.passes import BlockPass


@dataclass
class TargetGradient:
    """The target of one block.

    Attributes:
        activity: with respect to the block's output h_j, in its shape.
        weight: with respect to theta_j, a tensor for each parameter; None where it was not asked for.
    """

    activity: Tensor
    weight: list[Tensor] | None


class Target(ABC):
    """A gradient target: which loss is differentiated for block j.

    Attributes:
        uses_auxiliaries: whether the loss is a local one.
        crosses_blocks: whether it is differentiated through a later block, which then needs its input's gradient.
    """

    uses_auxiliaries: bool
    crosses_blocks: bool

    @abstractmethod
    def __call__(self, passes: Sequence[BlockPass], *, weight: bool) -> list[TargetGradient]:
        """The targets of blocks 0..J-2.

        Args:
            passes: all J blocks of one forward pass.
            weight: whether the targets with respect to the parameters are wanted too.
        """


class GlobalTarget(Target):
    """The gradient of the network's loss L, that is backpropagation's."""

    uses_auxiliaries = False
    crosses_blocks = True

    def __call__(self, passes: Sequence[BlockPass], *, weight: bool) -> list[TargetGradient]:
        """See ``Target``; one sweep of vector-Jacobian products from the last block to the first."""
        cotangent = passes[-1].input_gradient
        targets: list[TargetGradient] = []
        for j in reversed(range(len(passes) - 1)):
            below = [passes[j].input] if j > 0 else []
            gradients = passes[j].vjp(cotangent, below + (passes[j].parameters if weight else []))
            targets.append(TargetGradient(cotangent, gradients[len(below) :] if weight else None))
            cotangent = gradients[0] if below else None
        return targets[::-1]


class LocalTarget(Target):
    """The gradient of the block's own local loss L_j."""

    uses_auxiliaries = True
    crosses_blocks = False

    def __call__(self, passes: Sequence[BlockPass], *, weight: bool) -> list[TargetGradient]:
        """See ``Target``."""
        return [
            TargetGradient(here.local_gradient, here.to_parameters(here.local_gradient) if weight else None)
            for here in passes[:-1]
        ]


class IntermediateTarget(Target):
    """The gradient of the next block's local loss L_{j+1}, through f_{j+1}; for block J-2 this is L."""

    uses_auxiliaries = True
    crosses_blocks = True

    def __call__(self, passes: Sequence[BlockPass], *, weight: bool) -> list[TargetGradient]:
        """See ``Target``."""
        targets = []
        for here, above in pairwise(passes):
            last = above is passes[-1]
            cotangent = above.input_gradient if last else above.to_input(above.local_gradient)
            targets.append(TargetGradient(cotangent, here.to_parameters(cotangent) if weight else None))
        return targets
