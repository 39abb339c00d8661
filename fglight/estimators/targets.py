"""Gradient targets (Sec. 3.2): the gradient that one would like a block to follow."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from torch import Tensor

from fglight.estimators.layers import LayerCall
from fglight.estimators.passes import BlockPass

Points = Callable[[BlockPass], Sequence[Tensor | LayerCall]]
"""Chooses points inside a block, parameters or uses of layers (their outputs), at which its target is wanted."""


@dataclass
class TargetGradient:
    """The target of one block.

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


class Target(ABC):
    """A gradient target: which loss is differentiated for block j.

    Attributes:
        uses_auxiliaries: whether the loss is a local one.
        reach: through how many later blocks it is differentiated at most; None: all of them.
    """

    uses_auxiliaries: bool
    reach: int | None

    @property
    def crosses_blocks(self) -> bool:
        """Whether it is differentiated through later blocks, which then need their inputs' gradients."""
        return self.reach != 0

    @abstractmethod
    def __call__(
        self, passes: Sequence[BlockPass], points: Points, *, keep: bool = True
    ) -> Iterator[tuple[BlockPass, TargetGradient]]:
        """The targets of blocks J-2 down to 0, each computed when it is asked for.

        Args:
            passes: all J blocks of one forward pass.
            points: where inside a block its target is wanted besides its output.
            keep: whether a block's graph is needed after its target was taken.
        """


class GlobalTarget(Target):
    """The gradient of the network's loss L, that is backpropagation's."""

    uses_auxiliaries = False
    reach = None

    def __call__(
        self, passes: Sequence[BlockPass], points: Points, *, keep: bool = True
    ) -> Iterator[tuple[BlockPass, TargetGradient]]:
        """See ``Target``; one sweep of vector-Jacobian products, from h_j to x_j = h_{j-1} and on."""
        cotangent = passes[-1].input_gradient
        for here in reversed(passes[:-1]):
            below = [here.input] if here.input.requires_grad else []
            gradients = here.vjp(cotangent, [*below, *points(here)], keep=keep)
            crossing = gradients.pop(0) if below else None
            # Nothing else holds what the perturbation lets go of.
            target, cotangent = TargetGradient(cotangent, gradients), crossing
            yield here, target


class LocalTarget(Target):
    """The gradient of the block's own local loss L_j."""

    uses_auxiliaries = True
    reach = 0

    def __call__(
        self, passes: Sequence[BlockPass], points: Points, *, keep: bool = True
    ) -> Iterator[tuple[BlockPass, TargetGradient]]:
        """See ``Target``."""
        for here in reversed(passes[:-1]):
            gradient = here.local_gradient
            target = TargetGradient(gradient, here.vjp(gradient, points(here), keep=keep))
            del gradient
            yield here, target


class IntermediateTarget(Target):
    """The gradient of the next block's local loss L_{j+1}, through f_{j+1}; for block J-2 this is L."""

    uses_auxiliaries = True
    reach = 1

    def __call__(
        self, passes: Sequence[BlockPass], points: Points, *, keep: bool = True
    ) -> Iterator[tuple[BlockPass, TargetGradient]]:
        """See ``Target``."""
        cotangent = passes[-1].input_gradient
        for here in reversed(passes[:-1]):
            # What the block below will aim at goes first, while this block's graph is there.
            below = here.vjp(here.local_gradient, [here.input]) if here.input.requires_grad else [None]
            target, cotangent = TargetGradient(cotangent, here.vjp(cotangent, points(here), keep=keep)), below[0]
            yield here, target
