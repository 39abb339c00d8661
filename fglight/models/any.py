"""Any module of one's own, cut into blocks where some of its submodules begin."""

from collections.abc import Callable, Mapping, Sequence
from pkgutil import resolve_name
from typing import Any

import torch
from torch import Tensor, nn

from fglight.errors import one_line
from fglight.models.blocks import BlockNetwork
from fglight.models.cutting import cut, ids_and_mask, prepare
from fglight.models.segments import Inputs


def any_network(
    make: Callable[..., Any],
    said: str,
    auxiliary: Callable[[int], nn.Module],
    example: Tensor,
    blocks: int = 4,
    cuts: Sequence[str] | None = None,
    inputs: str | None = None,
    dropout: bool = False,
    arguments: Mapping[str, Any] | None = None,
    adapt: Callable[[nn.Module], None] | None = None,
) -> BlockNetwork:
    """Make a module, and cut it into blocks.

    Args:
        make: makes it.
        said: the setting that chose it, with its value.
        auxiliary: builds the auxiliary network of a block from the channels of its output.
        example: what block 0 takes.
        blocks: how many blocks of about as many layers, where ``cuts`` names none.
        cuts: the submodules with which blocks 1, 2, ... begin.
        inputs: the full name of the function that makes the module's keyword arguments of what block 0 takes. None: of
            texts, ``input_ids`` and ``attention_mask``; all else is its only argument.
        dropout: whether its dropout is on.
        arguments: more arguments of ``make``.
        adapt: chooses what of the module is trained, before it is cut.

    Raises:
        ValueError: naming the setting that is not possible, what it must be and its value.
    """
    unpack: Inputs | None = None if example.is_floating_point() else ids_and_mask
    if inputs is not None:
        try:
            unpack = resolve_name(inputs)
        except Exception as error:  # whatever importing a module may raise
            raise ValueError(
                f"model.inputs must be the full name of a function, got {inputs}: {one_line(error)}"
            ) from error
    with torch.device("cpu"):
        try:
            network = make(**(arguments or {}))
        except Exception as error:  # whatever its code does
            raise ValueError(f"{said} is not possible with its settings: {one_line(error)}") from error
    if not isinstance(network, nn.Module):
        raise ValueError(f"{said} must give a torch.nn.Module, got a {type(network).__name__}")
    prepare(network, dropout=dropout, adapt=adapt)
    return cut(network, blocks if cuts is None else list(cuts), example, auxiliary, said, unpack)
