"""What a step wants of auxiliary networks, and what it gets of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce

import torch
from torch import Tensor


@dataclass(frozen=True)
class Auxiliaries:
    """What a step wants of the auxiliary networks.

    Attributes:
        evaluated: whether they take part at all.
        differentiated: whether the gradient of L_j with respect to h_j is wanted.
        trained: whether they are to train on L_j.
    """

    evaluated: bool
    differentiated: bool
    trained: bool


GRADIENT_ALONE = Auxiliaries(evaluated=True, differentiated=True, trained=False)


@dataclass
class LocalLoss:
    """The loss L_j of a block's auxiliary network in one step.

    Attributes:
        loss: L_j, a scalar without graph; until the end of the step, this process's part of it (``Batch.loss``).
        logits: outputs of the auxiliary network, ``(batch, classes)`` or as the loss takes them, without graph.
        gradients: of each auxiliary network's loss with respect to h_j, in h_j's shape; None where nobody asked for
            them.
    """

    loss: Tensor
    logits: Tensor
    gradients: Sequence[Tensor] | None

    @property
    def gradient(self) -> Tensor | None:
        """The gradient of L_j with respect to h_j, in h_j's shape."""
        return None if self.gradients is None else reduce(torch.add, self.gradients)
