"""What one coefficient stands for."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Granularity:
    """How finely a perturbation's coefficients divide its space: a *unit* is what one of them stands for.

    Attributes:
        dimensions: along how many leading dimensions of a tensor every index is a unit of its own.
        joins_tensors: whether all tensors of a block are one unit.
        joins_blocks: whether all blocks are.
    """

    dimensions: int = 0
    joins_tensors: bool = False
    joins_blocks: bool = False

    def cut(self, tensors: Tensor) -> Tensor:
        """Cut ``(k, *shape)`` into what one coefficient stands for at most: ``(units, k, features)``."""
        units = tensors.shape[1 : 1 + self.dimensions].numel()
        return tensors.reshape(len(tensors), units, -1).transpose(0, 1)

    def spread(self, coefficients: Tensor, tensors: Tensor) -> Tensor:
        """Lay coefficients ``(units, k)`` out so that they multiply tensors ``(k, *shape)`` unit by unit."""
        units = tensors.shape[: 1 + self.dimensions]
        return coefficients.mT.reshape(*units, *[1] * (tensors.dim() - len(units)))
