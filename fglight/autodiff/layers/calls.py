"""The uses of layers in a forward pass, and what is known of them."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, Node, get_gradient_edge
from torch.overrides import TorchFunctionMode

from fglight.autodiff.layers.kinds import KINDS, LayerKind
from fglight.autodiff.parameters import dense
from fglight.autodiff.rng import Generators, generators_kept
from fglight.models.segments import on_rows

NO_SINGLE_USE = (
    "no single use of a layer stands for it (used twice, outside of its layer, by a method of one's own, or with hooks)"
)
"""Why a parameter is treated as one of the whole block."""

GRAD_FN = Tensor.grad_fn.__get__  # type: ignore[union-attr]
"""What looks up the operation that made a tensor, as is needed to put a hook on it."""


@dataclass(eq=False)
class LayerCall:
    """One use of a layer in a forward pass.

    Attributes:
        layer: the module that owns the parameters.
        input: what it took in, ``(batch, ...)``, without graph.
        output: its output, in the graph's terms (an edge survives in-place operations on the output).
        shape: of its output.
        source: what made the input, in the graph; None for an input without graph.
        plain: whether the ``forward`` of the layer's class alone made the output, of the layer's own parameters and
            tensors that are nothing else, with autocast as it is around the body.
        version: ``version_of`` the input when the layer took it in.
        again: a context in which the layer's block may run once more, as one does that keeps checkpoints only.
    """

    layer: Any  # torch takes every attribute of a module for a tensor or a module
    input: Tensor
    output: GradientEdge
    shape: torch.Size
    source: Node | None = None
    plain: bool = False
    version: int | None = None
    again: Callable[[], AbstractContextManager] = nullcontext

    def kind(self, name: str, parameter: Tensor) -> LayerKind | None:
        """What is known of the layer: the formulas that are exactly what it does with one of its parameters.

        Args:
            name: of the parameter in the layer.
            parameter: the parameter.
        """
        known = self.plain and name in ("weight", "bias")
        ordinary = type(parameter) is nn.Parameter and not parameter._backward_hooks
        return KINDS[type(self.layer)] if known and ordinary else None

    def by_sample(self, batch: int) -> bool:
        """Whether dimension 0 of what the layer took in and gave out is the sample, as far as shapes can tell."""
        return len(self.shape) > 1 and self.input.shape[:1] == self.shape[:1] == (batch,)

    def vjp(self, parameter: Tensor, cotangent: Tensor) -> Tensor:
        """The vector-Jacobian product from the layer's output to a parameter; the graph is kept."""
        with self.again():
            (gradient,) = torch.autograd.grad(
                self.output, parameter, cotangent, retain_graph=True, allow_unused=True, materialize_grads=True
            )
        return dense(gradient)


@contextmanager
def record_calls(body: nn.Module) -> Iterator[list[LayerCall]]:
    """Record every use of a layer of ``body`` that owns trained parameters while the context is open.

    Layers that do not map one tensor to one tensor, or not by the method of their class, are passed over; and all of a
    body that puts hooks on tensors, which change gradients on their way.
    """
    calls: list[LayerCall] = []
    around = _autocasts()

    def record(layer: nn.Module, inputs: tuple[Any, ...], output: Any) -> Any:
        one = isinstance(output, Tensor) and len(inputs) == 1 and isinstance(inputs[0], Tensor)
        if one and output.requires_grad and "forward" not in vars(layer):
            if output._is_view():  # an in-place operation on a view would move it elsewhere in the graph
                output = output.clone()
            x = inputs[0].detach()
            with torch._C.DisableTorchFunction():  # `_TensorHooks` is to see what the body does
                source = get_gradient_edge(inputs[0]).node if inputs[0].requires_grad else None
                edge = get_gradient_edge(output)
            others = any(hook is not record for hook in layer._forward_hooks.values())
            plain = not others and _has_own_forward(layer) and type(inputs[0]) in (Tensor, nn.Parameter)
            plain = plain and _autocasts() == around
            calls.append(LayerCall(layer, x, edge, output.shape, source, plain, version_of(x)))
        return output

    owners = [
        module
        for module in body.modules()
        if any(p.requires_grad for p in module.parameters(recurse=False))
        and not isinstance(module, torch.jit.ScriptModule)  # which takes no hooks
    ]
    # Before hooks of the user's own, which may change the output.
    hooks = [module.register_forward_hook(record, prepend=True) for module in owners]
    try:
        with _TensorHooks() as noticing:
            yield calls
        if noticing.noticed:
            calls.clear()
    finally:
        for hook in hooks:
            hook.remove()


_SAMPLES_FIRST: WeakKeyDictionary[nn.Module, tuple[tuple, list[bool]]] = WeakKeyDictionary()
"""Of each body that has run, what was found last, and for what."""


def samples_first(
    body: nn.Module, x: Tensor, calls: Sequence[LayerCall], again: Callable[[], AbstractContextManager]
) -> list[bool]:
    """Which uses of layers have samples in front, in what they take in and give out; looked for once for a shape.

    Sizes alone do not tell which dimension is the sample: there may be as many time steps as samples, and samples may
    be sorted. So the body runs with the first sample two times more, in front and at the end: where a layer takes in
    samples in their order, it takes in the same in these places, unless random numbers are drawn. Of a body that takes
    no other number of samples, nothing is known.

    Args:
        body: the body, which has run on ``x``.
        x: what it took in.
        calls: the uses.
        again: a context in which it may run once more.
    """
    seen = (x.shape, x.dtype, body.training, *(id(call.layer) for call in calls))
    if body in _SAMPLES_FIRST and _SAMPLES_FIRST[body][0] == seen:
        return _SAMPLES_FIRST[body][1]
    rows = torch.arange(-1, len(x) + 1, device=x.device).clamp(0) % len(x)
    given = x.detach()[rows].requires_grad_(x.requires_grad)
    found: list[LayerCall] = []
    with generators_kept(x.device):
        generators = Generators(x.device)
        with suppress(Exception), torch.enable_grad(), again(), on_rows(rows), record_calls(body) as found:
            body(given)
        drawn = generators.have_moved()
    first = [
        one.by_sample(len(x)) and other.by_sample(len(given)) and (drawn or _in_order(other.input))
        for one, other in zip(calls, found)
    ]
    if [call.layer for call in found] != [call.layer for call in calls]:
        first = [False] * len(calls)
    _SAMPLES_FIRST[body] = seen, first
    return first


def _in_order(x: Tensor) -> bool:
    """Whether the first two rows of a layer's input and the last one are the same, but for rounding."""
    rows = x[[0, 1, -1]].detach().to(torch.promote_types(x.dtype, torch.float32)).nan_to_num()
    precision = torch.finfo(x.dtype).eps ** 0.5 if x.is_floating_point() else 0
    return bool(((rows - rows[0]).abs() <= precision * rows.abs().max()).all()) if rows.numel() else True


class _TensorHooks(TorchFunctionMode):
    """Notices hooks that are put on tensors, or on the operations that made them."""

    noticed = False

    def __torch_function__(
        self, function: Callable, types: Sequence[type], args: tuple = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        self.noticed = self.noticed or function in (Tensor.register_hook, GRAD_FN)
        return function(*args, **(kwargs or {}))


def version_of(x: Tensor | None) -> int | None:
    """A number that is another one once a tensor was modified in place; None where nothing tells."""
    return None if x is None or x.is_inference() else x._version


def uncached(device: torch.device) -> torch.autocast:
    """Autocast as it is, but without its cache: a weight used twice, or drawn anew, would be cast once."""
    return torch.autocast(device.type, enabled=torch.is_autocast_enabled(device.type), cache_enabled=False)


def _has_own_forward(layer: nn.Module) -> bool:
    """Whether nothing but the ``forward`` that torch has for a layer's class takes part in a use of it."""
    hooks = (layer._forward_pre_hooks, layer._backward_hooks, layer._backward_pre_hooks)
    return (
        type(layer) in KINDS
        and KINDS[type(layer)].forwards[type(layer)] is type(layer).forward
        and "_conv_forward" not in vars(layer)
        and not any(hooks)
        and all(isinstance(p, nn.Parameter) for p in layer._parameters.values() if p is not None)  # no functional_call
        and not torch.nn.modules.module._has_any_global_hook()
    )


def _autocasts() -> list:
    """What autocast is set to."""
    return [(torch.is_autocast_enabled(device), torch.get_autocast_dtype(device)) for device in ("cpu", "cuda")]
