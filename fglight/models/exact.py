"""How many of a network's last blocks take the exact gradient of its loss."""

from collections.abc import Sequence

from torch import nn

from fglight.models.blocks import Block, BlockNetwork


def exact_blocks(network: BlockNetwork, count: int) -> BlockNetwork:
    """The same layers in other blocks, of which the last takes the exact gradient as ever.

    Args:
        network: whose last block has the head.
        count: how many of its blocks that is. 1: as it is, which is the paper's. More: the last ones become one
            (ElasticZO, arXiv 2501.04287). 0: none, so that every parameter gets an estimate (MeZO, arXiv 2305.17333).
            The head then belongs to the block that it is on, and a block without parameters behind it has the loss.

    Raises:
        ValueError: there are not so many blocks, or none is to be exact and the head has a loss of its own.
    """
    blocks: Sequence[Block] = list(network.blocks)
    if not 0 <= count <= len(blocks):
        raise ValueError(f"exact_blocks must be from 0 to the network's {len(blocks)} blocks, got {count}")
    if count == 1:
        return network
    *rest, last = blocks
    if count == 0:
        if hasattr(last.aux, "loss"):
            raise ValueError(f"exact_blocks must be 1 or more with a head that has a loss of its own, got {count}")
        whole = Block(nn.Sequential(last.body, last.aux), nn.Identity(), last.criterion)
        others = BlockNetwork([*rest, whole, Block(nn.Identity(), nn.Identity(), last.criterion)])
    else:
        joined = nn.Sequential(*(block.body for block in blocks[-count:]))
        others = BlockNetwork([*blocks[:-count], Block(joined, last.aux, last.criterion)])
    others.held = network.held
    return others
