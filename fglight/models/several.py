"""Several auxiliary networks for one block."""

from collections.abc import Callable, Sequence

from torch import nn


class SeveralAuxiliaries(nn.ModuleList):
    """Auxiliary networks of one block, side by side, in place of a single one.

    The block's local loss L_j is the sum of theirs, so that each trains by its own; its logits are the mean of theirs.
    Each gives a direction of its own to a guess that asks for them (``Block.auxiliaries``).
    """


def several_auxiliaries(
    channels: int,
    num_classes: int,
    parts: Sequence[Callable[..., nn.Module]],
    blocks: int | None = None,
    width: float = 1.0,
    hidden: int | None = None,
    scale: float = 1.0,
) -> SeveralAuxiliaries:
    """Build a block's auxiliary networks from its number of channels.

    Args:
        channels: channels of the block's output.
        num_classes: number of classes.
        parts: what builds each of them, such as ``CNNAuxiliary``.
        blocks: number of blocks of the paper's network, which selects their hidden widths; None for others.
        width: width factor of the network, scales their hidden widths.
        hidden: hidden width of each; None: each has its own default.
        scale: another factor on these defaults, for networks that cost as little together as one does.
    """
    size = {"num_classes": num_classes, "blocks": blocks, "width": scale * width, "hidden": hidden}
    return SeveralAuxiliaries(part(channels, **size) for part in parts)
