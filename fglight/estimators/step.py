"""What a step wants of auxiliary networks, and what it computes besides gradients."""

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


@dataclass
class Step:
    """What one step computed besides the gradients; nothing here carries a graph.

    Attributes:
        loss: the network's loss L on the whole batch, a scalar.
        logits: outputs of the head, ``(batch, classes)`` or as the loss takes them.
        local: the local loss of each block 0..J-2, None for auxiliary networks that took no part.
        cosine: cosine similarity of guess and target, ``(J-1,)``, NaN for a block without parameters; None where it was
            not asked for or the guess is exact.
    """

    loss: Tensor
    logits: Tensor
    local: list[LocalLoss | None]
    cosine: Tensor | None
