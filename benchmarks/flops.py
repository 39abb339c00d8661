"""FLOPs of a step, told apart by what they are for, in units of one forward pass of the network.

A dispatch mode sits below autograd and sees every operation that runs: the forward pass, what the backward engine
calls, and what dual numbers compute for tangents (``torch.utils.flop_counter.FlopCounterMode`` sees these as well, but
does not tell them from the forward pass). As there, matrix products and convolutions count, and nothing else.

- *vJp*: what the backward engine calls. For convolutions it is known which part goes to activations and which to
  weights; matrix products count as activations' (linear layers are at most 1 % here).
- *forward*: the first product inside a layer's call. On dual numbers a layer computes its output first.
- *Jvp*: all later ones in that call, which belong to the tangent (one product for the input's part of it and one for
  the weight's), and products outside of any layer's call, such as a layer applied to a guess in place of its weight.

A vJp of the whole network to activations is 1 unit, to weights another; a Jvp of it is 1 for the tangents of its
activations and 1 for those of its weights. Auxiliary networks count in the numerator.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import flop_registry

from fglight.diagnostics.profile import FlopCounter

LAYERS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)


@dataclass
class Flops:
    """Floating-point operations of a step, or multiples of some unit.

    Attributes:
        forward: forward passes.
        activations: vector-Jacobian products to activations.
        weights: vector-Jacobian products to weights.
        tangents: Jacobian-vector products.
    """

    forward: float = 0
    activations: float = 0
    weights: float = 0
    tangents: float = 0

    @property
    def total(self) -> float:
        """All of them."""
        return self.forward + self.activations + self.weights + self.tangents

    def __truediv__(self, unit: float) -> "Flops":
        return Flops(self.forward / unit, self.activations / unit, self.weights / unit, self.tangents / unit)


def count(step: Callable[[], object], model: nn.Module) -> Flops:
    """Count the FLOPs of a step.

    Args:
        step: the step.
        model: whose layers it runs.
    """
    counter = _Counter()
    with _layer_calls(model, counter):
        step()  # an engine looks at a network before its first step, and again once layers have other hooks
        with counter:
            step()
    return counter.flops


class _Counter(FlopCounter):
    """Tells operations apart by what they are for.

    Attributes:
        flops: the sums.
        fresh: whether a layer is being called and has computed nothing yet.
    """

    def __init__(self) -> None:
        super().__init__()
        self.flops = Flops()
        self.fresh = False

    def add(self, flops: float, func: Any, args: tuple, out: Any) -> None:
        """See ``FlopCounter``."""
        if torch._C._current_graph_task_id() != -1:  # inside the backward engine
            to_weights = 0
            if func is torch.ops.aten.convolution_backward.default:
                wanted = [False, args[-1][1], False]
                to_weights = flop_registry[func._overloadpacket](*args[:-1], wanted, out_val=out)
            self.flops.weights += to_weights
            self.flops.activations += flops - to_weights
        elif self.fresh:
            self.flops.forward += flops
            self.fresh = False
        else:
            self.flops.tangents += flops


@contextmanager
def _layer_calls(model: nn.Module, counter: _Counter) -> Iterator[None]:
    """Tell a counter when a layer's call begins and ends."""

    def begin(*_: object) -> None:
        counter.fresh = True

    def end(*_: object) -> None:
        counter.fresh = False

    layers = [module for module in model.modules() if isinstance(module, LAYERS)]
    hooks = [layer.register_forward_pre_hook(begin) for layer in layers]
    hooks += [layer.register_forward_hook(end, prepend=True) for layer in layers]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
