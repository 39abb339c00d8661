"""A module's parameters: other tensors in their place, and the hooks that change their gradients."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn


@contextmanager
def replaced(body: nn.Module, values: Mapping[str, Tensor | None]) -> Iterator[None]:
    """Have a module run on other tensors in the place of some parameters, under all names that they have in it.

    ``torch.func.functional_call`` leaves other tensors behind where a layer stands in a module twice.

    Args:
        body: the module.
        values: by the parameters' names; None: nothing.
    """
    of_parameter = {parameter: values[name] for name, parameter in body.named_parameters() if name in values}
    places = [
        (module, name, parameter)
        for module in body.modules()
        for name, parameter in module._parameters.items()
        if parameter in of_parameter
    ]
    for module, name, parameter in places:
        module._parameters[name] = of_parameter[parameter]  # type: ignore[assignment]
    try:
        yield
    finally:
        for module, name, parameter in places:
            module._parameters[name] = parameter


@contextmanager
def without_hooks(parameters: Iterable[nn.Parameter]) -> Iterator[None]:
    """Take gradients of parameters as they are, past the hooks that ``Tensor.register_hook`` put there."""
    hooks = [(p._backward_hooks, dict(p._backward_hooks)) for p in parameters if p._backward_hooks]
    for held, _ in hooks:
        held.clear()
    try:
        yield
    finally:
        for held, kept in hooks:
            held.update(kept)


def hooked(parameter: nn.Parameter, gradient: Tensor) -> Tensor:
    """What the hooks of a parameter make of a gradient of it."""
    for hook in (parameter._backward_hooks or {}).values():
        changed = hook(gradient)
        gradient = gradient if changed is None else changed
    return gradient


def dense(gradient: Tensor) -> Tensor:
    """A gradient in the ordinary layout: embeddings may give sparse ones."""
    return gradient if gradient.layout is torch.strided else gradient.to_dense()


def without_row(tensors: Tensor, dimensions: int, row: int) -> Tensor:
    """Tensors of so many dimensions each, ``(..., *shape)``, which now have zeros in one row of each."""
    tensors.select(tensors.dim() - dimensions, row).zero_()
    return tensors
