"""The uses of layers in a forward pass, and what is known of them."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, Node, get_gradient_edge
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakTensorKeyDictionary

from fglight.autodiff.graph import Graph
from fglight.autodiff.layers.functions import FUNCTIONS, as_layer
from fglight.autodiff.layers.kinds import KINDS, LayerKind
from fglight.autodiff.layers.unfolded import learn_from_loaded_packages
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
        layer: the module that owns the parameters, or one that does the same as a function that took them.
        input: what it took in, ``(batch, ...)``, without graph.
        output: its output, in the graph's terms (an edge survives in-place operations on the output).
        shape: of its output.
        source: what made the input, in the graph; None for an input without graph.
        plain: whether the ``forward`` of the layer's class alone made the output, of the layer's own parameters and
            tensors that are nothing else, with autocast as it is around the body.
        version: ``version_of`` the input when the layer took it in.
        again: a context in which the layer's block may run once more, as one does that keeps checkpoints only.
        of_function: whether the layer stands for a function that was called, and is none of the body's.
    """

    layer: Any  # torch takes every attribute of a module for a tensor or a module
    input: Tensor
    output: GradientEdge
    shape: torch.Size
    source: Node | None = None
    plain: bool = False
    version: int | None = None
    again: Callable[[], AbstractContextManager] = nullcontext
    of_function: bool = False

    def kind(self, name: str, parameter: Tensor) -> LayerKind | None:
        """What is known of the layer: the formulas that are exactly what it does with one of its parameters.

        Args:
            name: of the parameter in the layer.
            parameter: the parameter.
        """
        known = self.plain and name in ("weight", "bias")
        ordinary = type(parameter) is nn.Parameter and not parameter._backward_hooks
        kind = KINDS.get(type(self.layer)) if known and ordinary else None
        return kind if kind is not None and kind.holds(self.layer) else None

    def by_sample(self, batch: int) -> bool:
        """Whether dimension 0 of what the layer took in and gave out is the sample, as far as shapes can tell."""
        return len(self.shape) > 1 and self.input.shape[:1] == self.shape[:1] == (batch,)

    @property
    def parameters(self) -> list[nn.Parameter]:
        """Those of the layer itself."""
        return [parameter for parameter in self.layer._parameters.values() if parameter is not None]

    def vjp(self, parameter: Tensor, cotangent: Tensor) -> Tensor:
        """The vector-Jacobian product from the layer's output to a parameter; the graph is kept."""
        with self.again():
            (gradient,) = torch.autograd.grad(
                self.output, parameter, cotangent, retain_graph=True, allow_unused=True, materialize_grads=True
            )
        return dense(gradient)


class Calls(list[LayerCall]):
    """The uses of layers in one run of a body.

    Attributes:
        hooked: whether the body puts hooks on tensors, which change gradients on their way; nothing is known then.
    """

    hooked = False


@contextmanager
def record_calls(body: nn.Module) -> Iterator[Calls]:
    """Record every use of a layer of ``body`` that owns trained parameters while the context is open.

    Layers that do not map one tensor to one tensor, or not by the method of their class, are passed over; and all of a
    body that puts hooks on tensors. Where no layer with closed forms takes a parameter, the function that takes it
    stands for one.
    """
    learn_from_loaded_packages()
    calls = Calls()
    around = _autocasts()

    def record(layer: nn.Module, inputs: tuple[Any, ...], output: Any) -> Any:
        one = isinstance(output, Tensor) and len(inputs) == 1 and isinstance(inputs[0], Tensor)
        if one and output.requires_grad and "forward" not in vars(layer):
            with torch._C.DisableTorchFunction():  # `_Functions` is to see what the body does
                others = any(hook is not record for hook in layer._forward_hooks.values())
                plain = not others and _has_own_forward(layer) and type(inputs[0]) in (Tensor, nn.Parameter)
                output, call = _call(layer, inputs[0], output, plain=plain and _autocasts() == around)
            calls.append(call)
        return output

    owners = [
        module
        for module in body.modules()
        if any(p is not None and p.requires_grad for p in module._parameters.values())
        and not isinstance(module, torch.jit.ScriptModule)  # which takes no hooks
    ]
    # Before hooks of the user's own, which may change the output.
    hooks = [module.register_forward_hook(record, prepend=True) for module in owners]
    try:
        with _Functions(around) as functions:
            yield calls
        calls.hooked = functions.put_hooks
        known = {p for call in calls for p in call.parameters if call.plain}
        calls += [call for call in functions.calls if not known.issuperset(call.parameters)]
        if calls.hooked:
            calls.clear()
    finally:
        for hook in hooks:
            hook.remove()


def _call(layer: nn.Module, x: Tensor, output: Tensor, *, plain: bool) -> tuple[Tensor, LayerCall]:
    """A use of a layer, and its output as it is to be handed on."""
    if output._is_view():  # an in-place operation on a view would move it elsewhere in the graph
        output = output.clone()
    source = get_gradient_edge(x).node if x.requires_grad else None
    x = x.detach()
    return output, LayerCall(layer, x, get_gradient_edge(output), output.shape, source, plain, version_of(x))


@dataclass
class SamplesFirst:
    """Where in a body samples stand in front.

    Attributes:
        seen: for what it was found.
        calls: of which uses of layers, in what they take in and give out.
        ways: for parameters the operations that they go through, by their names, up to one that gives out samples.
    """

    seen: tuple
    calls: list[bool]
    ways: WeakTensorKeyDictionary = field(default_factory=WeakTensorKeyDictionary)

    def operation(self, graph: Graph, parameter: Tensor) -> Node | None:
        """The operation that gives out samples, of a graph of the body; None where there is none."""
        known = self.ways.get(parameter, [])
        way = [*islice(graph.way(parameter), len(known))]
        return way[-1] if way and [node.name() for node in way] == known else None


_SAMPLES_FIRST: WeakKeyDictionary[nn.Module, SamplesFirst] = WeakKeyDictionary()
"""Of each body that has run, what was found last."""


def samples_first(
    body: nn.Module, x: Tensor, calls: Sequence[LayerCall], graph: Graph, again: Callable[[], AbstractContextManager]
) -> SamplesFirst:
    """Where in a body samples stand in front; looked for once for a shape.

    Sizes alone do not tell which dimension is the sample: there may be as many time steps as samples, and samples may
    be sorted. So the body runs with the first sample two times more, in front and at the end: where a layer takes in
    samples in their order, it takes in the same in these places, unless random numbers are drawn. Of a body that takes
    no other number of samples, nothing is known.

    Args:
        body: the body, which has run on ``x``.
        x: what it took in.
        calls: the uses of layers.
        graph: of its output.
        again: a context in which it may run once more.
    """
    users = [[*map(id, call.parameters)] for call in calls]
    seen = (x.shape, x.dtype, body.training, users)
    if body in _SAMPLES_FIRST and _SAMPLES_FIRST[body].seen == seen:
        return _SAMPLES_FIRST[body]
    rows = torch.arange(-1, len(x) + 1, device=x.device).clamp(0) % len(x)
    given = x.detach()[rows].requires_grad_(x.requires_grad)
    found, output, ordered = Calls(), None, _Ordered(len(given))
    with generators_kept(x.device):
        generators = Generators(x.device)
        with suppress(Exception), torch.enable_grad(), again(), on_rows(rows), record_calls(body) as found, ordered:
            output = body(given)
        drawn = generators.have_moved()
    first = [
        one.by_sample(len(x)) and twin.by_sample(len(given)) and (drawn or _in_order(twin.input))
        for one, twin in zip(calls, found)
    ]
    if [[*map(id, call.parameters)] for call in found] != users:
        first = [False] * len(calls)
    _SAMPLES_FIRST[body] = result = SamplesFirst(seen, first)
    other = Graph() if output is None or found.hooked else Graph.of(output)
    for parameter in graph.uses.keys() & other.uses.keys():
        names = []
        for node, twin in zip(graph.way(parameter), other.way(parameter)):
            names.append(node.name())
            if node.name() != twin.name():
                break
            if twin in ordered.nodes and shape_of(node)[:1] == (len(x),):
                result.ways[parameter] = names
                break
    return result


def shape_of(node: Node) -> torch.Size:
    """Of what an operation gives out; of none for one of several outputs."""
    given = getattr(node, "_input_metadata", ())
    return torch.Size([size for one in given for size in one.shape] if len(given) == 1 else [])


class _Ordered(TorchFunctionMode):
    """Notes what operations give out samples in their order.

    Args:
        batch: how many.
    """

    def __init__(self, batch: int) -> None:
        super().__init__()
        self.batch = batch
        self.nodes: set[Node] = set()

    def __torch_function__(
        self, function: Callable, types: Sequence[type], args: tuple = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        output = function(*args, **(kwargs or {}))
        with torch._C.DisableTorchFunction():  # `_Functions` is to see what the body does
            samples = type(output) is Tensor and output.dim() > 1 and len(output) == self.batch
            if samples and output.grad_fn is not None and _in_order(output):
                self.nodes.add(output.grad_fn)
        return output


def _in_order(x: Tensor) -> bool:
    """Whether the first two rows of a layer's input and the last one are the same, but for rounding."""
    rows = x[[0, 1, -1]].detach().to(torch.promote_types(x.dtype, torch.float32)).nan_to_num()
    precision = torch.finfo(x.dtype).eps ** 0.5 if x.is_floating_point() else 0
    return bool(((rows - rows[0]).abs() <= precision * rows.abs().max()).all()) if rows.numel() else True


class _Functions(TorchFunctionMode):
    """Notes what functions of torch's take parameters, and hooks that are put on tensors or on what made them.

    Args:
        autocasts: what autocast is set to around the body.

    Attributes:
        calls: the uses of functions, as those of layers that do the same.
        put_hooks: whether there are such hooks.
    """

    def __init__(self, autocasts: list) -> None:
        super().__init__()
        self.autocasts = autocasts
        self.calls: list[LayerCall] = []
        self.put_hooks = False

    def __torch_function__(
        self, function: Callable, types: Sequence[type], args: tuple = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        self.put_hooks = self.put_hooks or function in (Tensor.register_hook, GRAD_FN)
        output = function(*args, **(kwargs or {}))
        if function not in FUNCTIONS or type(output) is not Tensor or not output.requires_grad:
            return output
        given = as_layer(function, args, kwargs or {})
        if given is None or type(given[0]) not in (Tensor, nn.Parameter) or _autocasts() != self.autocasts:
            return output
        output, call = _call(given[1], given[0], output, plain=True)
        self.calls.append(replace(call, of_function=True))
        return output


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
