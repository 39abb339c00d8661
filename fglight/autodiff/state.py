"""What is found out once about a network, and holds until the network changes."""

from collections.abc import Callable, Iterable, Sequence
from operator import is_
from types import FunctionType
from typing import Any

from torch import Tensor

from fglight.models.blocks import Block


class State:
    """A network's modules and tensors, an estimator's parts, and their settings, as they are now.

    Args:
        blocks: the network.
        parts: gives the objects whose attributes are settings, and what else matters.
    """

    def __init__(self, blocks: Sequence[Block], parts: Callable[[], Iterable[object]]) -> None:
        self.parts = parts
        self.modules = [module for block in blocks for module in block.modules()]
        self.found = self._look()

    def is_unchanged(self) -> bool:
        """Whether all of it is the same as it was."""
        (things, tensors), (now, tensors_now) = self.found, self._look()
        return len(now) == len(things) and all(map(is_, now, things)) and tensors_now == tensors

    def _look(self) -> tuple[list[Any], list[tuple]]:
        things = [*self.parts()]
        seen: set[int] = set()
        for thing in things:  # which grows: a coefficient is a setting of a perturbation, and has some of its own
            if hasattr(thing, "__dict__") and not isinstance(thing, type | FunctionType) and id(thing) not in seen:
                seen.add(id(thing))
                things.extend(vars(thing).values())
        tensors: list[tuple] = []
        for module in self.modules:
            things.extend(value for value in vars(module).values() if not isinstance(value, Tensor))
            for held in (module._modules, module._forward_pre_hooks, module._forward_hooks, module._backward_hooks):
                things.extend(held.values())
            for tensor in (*module._parameters.values(), *module._buffers.values()):
                things.append(tensor)
                if tensor is not None:
                    things.extend((tensor._backward_hooks or {}).values())
                    place = tensor.data_ptr(), tensor.device, tensor.shape, tensor.stride()
                    tensors.append((tensor.requires_grad, tensor.dtype, *place))
        return things, tensors
