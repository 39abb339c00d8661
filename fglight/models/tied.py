"""Parameters that lie at one memory, and are one in all but name: tied ones, of layers in several blocks."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

Memory = tuple[int, Any, torch.Size]
"""The storage of a parameter, its place there, and its shape."""

Place = tuple[nn.Module, str]
"""A module, and the name of a parameter in it."""


def _memory(parameter: nn.Parameter) -> Memory:
    plain = type(parameter) is nn.Parameter  # others may have no memory of their own
    return parameter.untyped_storage()._cdata if plain else id(parameter), parameter.storage_offset(), parameter.shape


def untie(blocks: Iterable[nn.Module]) -> None:
    """Give each block a parameter of its own for one that a block before has, at the same memory."""
    parameters, modules = set[nn.Parameter](), set[nn.Module]()
    for block in blocks:
        own = dict[nn.Parameter, nn.Parameter]()
        for module in (module for module in block.modules() if module not in modules):
            for name, parameter in module._parameters.items():
                if parameter is not None and parameter in parameters:
                    new = nn.Parameter(parameter.data, parameter.requires_grad)
                    module._parameters[name] = own.setdefault(parameter, new)
        parameters.update(block.parameters())
        modules.update(block.modules())


def tied_places(network: nn.Module) -> list[tuple[Place, Place]]:
    """The places of a parameter and of another at the same memory, for all such."""
    firsts: dict[Memory, Place] = {}
    pairs = list[tuple[Place, Place]]()
    for module in network.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None and not nn.parameter.is_lazy(parameter):
                first = firsts.setdefault(_memory(parameter), (module, name))
                if first[0]._parameters[first[1]] is not parameter:
                    pairs.append((first, (module, name)))
    return pairs


def are_tied(parameters: Iterable[nn.Parameter]) -> bool:
    """Whether some lie at one memory."""
    places = [_memory(parameter) for parameter in parameters]
    return len(set(places)) < len(places)


def of_first(
    parameters: Iterable[nn.Parameter], gradients: Mapping[nn.Parameter, Tensor]
) -> dict[nn.Parameter, Tensor]:
    """Gradients of parameters, with those of tied ones summed as that of the first of them.

    Args:
        parameters: all there are, in an order that stays.
        gradients: by parameters.
    """
    firsts: dict[Memory, nn.Parameter] = {}
    summed: dict[nn.Parameter, Tensor] = {}
    for parameter in parameters:
        first = firsts.setdefault(_memory(parameter), parameter)
        if parameter in gradients:
            gradient = gradients[parameter]
            summed[first] = summed[first] + gradient if first in summed else gradient
    return summed
