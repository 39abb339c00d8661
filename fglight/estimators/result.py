"""What a step computes besides gradients."""

from dataclasses import dataclass

from torch import Tensor

from fglight.autodiff.local_loss import LocalLoss


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
