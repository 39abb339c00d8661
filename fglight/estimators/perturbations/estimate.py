"""What a perturbation is given of a block, and what it gives."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from fglight.estimators.passes import BlockPass
from fglight.estimators.targets import TargetGradient

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
