"""Gradient targets (Sec. 3.2): the gradient that one would like a block to follow."""

from abc import ABC, abstractmethod

from fglight.errors import BlockError


class Target(ABC):
    """A gradient target: the gradient of one block's loss, for each of blocks 0..J-2.

    Every engine reads it here: reverse mode sweeps that loss's cotangent down to h_j, forward mode pushes tangents of
    h_j up to that loss, and finite differences evaluate it.

    Attributes:
        uses_auxiliaries: whether a block follows another loss than the network's.
        adds_local: whether the local losses of the blocks on the way are added to it.
    """

    uses_auxiliaries: bool
    adds_local = False

    @abstractmethod
    def loss_block(self, j: int, last: int) -> int:
        """The block whose loss block j follows.

        Args:
            j: from 0 to ``last - 1``.
            last: J-1, the block whose loss is the network's.

        Returns:
            From ``j``, for the block's own local loss L_j, to ``last``, for L.
        """

    def loss_blocks(self, last: int) -> list[int]:
        """``loss_block`` of each of blocks 0..J-2.

        Raises:
            BlockError: a block follows a loss that it has no part in, or a local one against ``uses_auxiliaries``.
        """
        found = [self.loss_block(j, last) for j in range(last)]
        for j, loss in enumerate(found):
            if not (isinstance(loss, int) and j <= loss <= last):
                raise BlockError(
                    f"{type(self).__name__}.loss_block({j}, {last}) must be a block from {j} to {last}, got {loss}"
                )
            if loss < last and not self.uses_auxiliaries:
                raise BlockError(
                    f"{type(self).__name__}.uses_auxiliaries must be true, since block {j} follows the loss of block "
                    f"{loss}, got {self.uses_auxiliaries}"
                )
        return found


class GlobalTarget(Target):
    """The gradient of the network's loss L, that is backpropagation's."""

    uses_auxiliaries = False

    def loss_block(self, j: int, last: int) -> int:
        """See ``Target``."""
        return last


class LocalTarget(Target):
    """The gradient of the block's own local loss L_j."""

    uses_auxiliaries = True

    def loss_block(self, j: int, last: int) -> int:
        """See ``Target``."""
        return j


class IntermediateTarget(Target):
    """The gradient of the next block's local loss L_{j+1}, through f_{j+1}; for block J-2 this is L."""

    uses_auxiliaries = True

    def loss_block(self, j: int, last: int) -> int:
        """See ``Target``."""
        return j + 1


class DeepSupervision(GlobalTarget):
    """The gradient of L + L_j + ... + L_{J-2}, through all later blocks (Lee et al. 2015, arXiv 1409.5185).

    With an exact guess it is what backpropagation of all losses together gives: a control that has the auxiliary
    networks of local learning and the whole gradient.
    """

    uses_auxiliaries = True
    adds_local = True
