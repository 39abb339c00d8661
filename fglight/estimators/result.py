"""What a step computes besides gradients."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
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

    @classmethod
    def of_parts(cls, steps: Sequence["Step"], shares: Sequence[float]) -> "Step":
        """Of a whole batch, by steps on parts of it without cosine, and the share of the samples that each has."""

        def mean(losses: Iterable[Tensor]) -> Tensor:
            return torch.stack([share * loss for share, loss in zip(shares, losses)]).sum(0)

        def joined(parts: Sequence[LocalLoss | None]) -> LocalLoss | None:
            used = [part for part in parts if part is not None]
            logits = torch.cat([part.logits for part in used]) if used else None
            return None if logits is None else LocalLoss(mean(part.loss for part in used), logits, None)

        local = [joined(parts) for parts in zip(*(step.local for step in steps))]
        return cls(mean(step.loss for step in steps), torch.cat([step.logits for step in steps]), local, None)
