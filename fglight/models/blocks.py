"""A network cut into blocks, each with its own small network on top that turns the block's output into a loss."""

from collections.abc import Iterable

import torch.nn.functional as F
from torch import Tensor, nn


class Block(nn.Module):
    """Block j of a network: its layers f_j and the network that reads their output h_j.

    Args:
        body: the layers f_j, any module of one tensor.
        aux: the auxiliary network a_j, or the classifier head for the last block. It maps h_j to logits
            ``(batch, classes)``. An auxiliary with a method ``loss(h, labels) -> (loss, logits)`` defines its own local
            loss; for all others it is the cross-entropy of the logits.
    """

    def __init__(self, body: nn.Module, aux: nn.Module) -> None:
        super().__init__()
        self.body = body
        self.aux = aux

    def loss(self, output: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """The loss of this block's auxiliary network (or head) on the block's output.

        Args:
            output: h_j, ``(batch, ...)``.
            labels: class indices, ``(batch,)``.

        Returns:
            The scalar loss L_j, a mean over the batch, and the logits ``(batch, classes)``.
        """
        if hasattr(self.aux, "loss"):
            return self.aux.loss(output, labels)
        logits = self.aux(output)
        return F.cross_entropy(logits, labels), logits


class BlockNetwork(nn.Module):
    """A sequence of blocks; the last one's ``aux`` is the classifier head.

    Args:
        blocks: the blocks, from the images to the classes.
    """

    def __init__(self, blocks: Iterable[Block]) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``(batch, classes)`` of the classifier head; the auxiliary networks take no part."""
        hidden = images
        for block in self.blocks:
            hidden = block.body(hidden)
        return self.blocks[-1].aux(hidden)
