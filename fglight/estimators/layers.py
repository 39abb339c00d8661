"""Per-sample gradients of single layers, from what went in and the cotangent of what came out.

For a layer whose weight is applied at P positions (pixels or tokens) a sample, the input unfolds to U_i ``(K, P)``
and the output's cotangent to D_i ``(O, P)``, and sample i's gradient is D_i U_i^T ``(O, K)``. The inner product of two
such gradients is ⟨D_i U_i^T, D'_i U_i^T⟩ = ⟨D_i^T D'_i, U_i^T U_i⟩, which needs only P x P matrices: cheaper than the
gradients themselves where there are few positions and many channels, as late in a convolutional network.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, Node, get_gradient_edge
from torch.overrides import TorchFunctionMode

from fglight.estimators import linalg
from fglight.estimators.generators import Generators, generators_kept
from fglight.estimators.parameters import dense

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
FORWARDS: dict[type[nn.Module], Callable] = {
    kind: kind.forward for kind in (nn.Linear, *CONVOLUTIONS, *BATCH_NORMS, nn.LayerNorm, nn.GroupNorm)
}
"""The layers that are known, with what their classes do."""

NO_SINGLE_USE = (
    "no single use of a layer stands for it (used twice, outside of its layer, by a method of one's own, or with hooks)"
)
"""Why a parameter is treated as one of the whole block."""

GRAD_FN = Tensor.grad_fn.__get__  # type: ignore[attr-defined]
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

    @property
    def channel(self) -> int:
        """The dimension of the output of a convolution or linear layer that has the channels."""
        return -1 if isinstance(self.layer, nn.Linear) else -1 - len(self.layer.kernel_size)

    def by_sample(self, batch: int) -> bool:
        """Whether dimension 0 of what the layer took in and gave out is the sample, as far as shapes can tell."""
        if isinstance(self.layer, CONVOLUTIONS) and self.input.dim() < len(self.layer.kernel_size) + 2:
            return False
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


@dataclass(frozen=True)
class Traits:
    """What one more run of a body tells of its layers' uses, in their order.

    Attributes:
        seen: what it was found for.
        by_sample: which of them have samples in front, in what they take in and give out.
    """

    seen: tuple
    by_sample: Sequence[bool]


_TRAITS: WeakKeyDictionary[nn.Module, Traits] = WeakKeyDictionary()
"""Of each body that has run, the last."""


def traits_of(
    body: nn.Module, x: Tensor, calls: Sequence[LayerCall], again: Callable[[], AbstractContextManager]
) -> Traits:
    """Look closer at the uses of layers in a body, the first time that it runs on tensors of a shape.

    Sizes alone do not tell which dimension is the sample: there may be as many time steps as samples, and samples may
    be sorted. So the body runs with the first sample two times more, in front and at the end: where a layer takes in
    samples in their order, it takes in the same in these places, unless random numbers are drawn. A body that takes no
    other number of samples is known by sizes.

    Args:
        body: the body, which has run on ``x``.
        x: what it took in.
        calls: the uses.
        again: a context in which it may run once more.
    """
    seen = (x.shape, x.dtype, body.training, *(id(call.layer) for call in calls))
    if body in _TRAITS and _TRAITS[body].seen == seen:
        return _TRAITS[body]
    batch, by_sample = len(x), [True] * len(calls)
    for given in (torch.cat([x[:1], x, x[:1]]).detach(), x.detach()):
        with suppress(Exception), torch.enable_grad(), again(), generators_kept(x.device):
            generators = Generators(x.device)
            with record_calls(body) as found:
                body(given.requires_grad_(x.requires_grad))
            if len(given) > batch:
                drawn = generators.have_moved()
                alike = [call.layer for call in found] == [call.layer for call in calls]
                by_sample = [alike and call.by_sample(batch + 2) and (drawn or _in_order(call.input)) for call in found]
            break
    by_sample = [follows and call.by_sample(batch) for call, follows in zip(calls, by_sample)]
    _TRAITS[body] = Traits(seen, by_sample)
    return _TRAITS[body]


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
        FORWARDS.get(type(layer)) is type(layer).forward
        and "_conv_forward" not in vars(layer)
        and not any(hooks)
        and all(isinstance(p, nn.Parameter) for p in layer._parameters.values() if p is not None)  # no functional_call
        and not torch.nn.modules.module._has_any_global_hook()
    )


def _autocasts() -> list:
    """What autocast is set to."""
    return [(torch.is_autocast_enabled(device), torch.get_autocast_dtype(device)) for device in ("cpu", "cuda")]


def has_closed_form(call: LayerCall, name: str, parameter: Tensor) -> bool:
    """Whether the formulas here are exactly what a layer does with a parameter, and its backward pass with a gradient.

    Args:
        call: the use of the layer.
        name: of the parameter in the layer.
        parameter: the parameter.
    """
    return (
        call.plain and name in ("weight", "bias") and type(parameter) is nn.Parameter and not parameter._backward_hooks
    )


def weight_output(call: LayerCall, weight: Tensor) -> Tensor:
    """What a convolution or linear layer would have given out with another weight and no bias.

    It is linear in the weight, and so this is also its Jacobian-vector product in the direction ``weight``.
    """
    if isinstance(call.layer, nn.Linear):
        return F.linear(call.input, weight)
    return call.layer._conv_forward(call.input, weight, None)


def unfold(layer: nn.Module, x: Tensor) -> Tensor | None:
    """U: a convolution's or linear layer's input as columns, ``(batch, groups, K, P)``; None for other layers."""
    if type(layer) is nn.Linear:
        return x.reshape(len(x), 1, -1, layer.in_features).transpose(2, 3)
    if type(layer) is not nn.Conv2d:
        return None
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    x = F.pad(x, layer._reversed_padding_repeated_twice, mode=mode)
    # Views and one copy, several times as fast on CPUs as F.unfold.
    for dimension, size, dilation, stride in zip((2, 3), layer.kernel_size, layer.dilation, layer.stride):
        x = x.unfold(dimension, dilation * (size - 1) + 1, stride)[..., ::dilation]
    batch, channels, height, width, *kernel = x.shape
    columns = channels // layer.groups * kernel[0] * kernel[1]
    return x.permute(0, 1, 4, 5, 2, 3).reshape(batch, layer.groups, columns, height * width)


def unfold_cotangent(layer: Any, cotangent: Tensor) -> Tensor:
    """D: the cotangent of a convolution's or linear layer's output, ``(batch, groups, O, P)``."""
    if isinstance(layer, nn.Linear):
        return cotangent.reshape(len(cotangent), 1, -1, layer.out_features).transpose(2, 3)
    return cotangent.reshape(len(cotangent), layer.groups, layer.out_channels // layer.groups, -1)


def unfolded_shape(call: LayerCall) -> tuple[int, int, int]:
    """Groups, outputs a group (O) and positions (P) of a convolution's or linear layer's output."""
    if isinstance(call.layer, nn.Linear):
        return 1, call.layer.out_features, call.shape[1:-1].numel()
    return call.layer.groups, call.layer.out_channels // call.layer.groups, call.shape[2:].numel()


def knows_layer(call: LayerCall, name: str, parameter: Tensor) -> bool:
    """Whether ``layer_outputs`` and ``per_sample_gradients`` know the layer and this parameter of it."""
    known = (*BATCH_NORMS, nn.Conv2d, nn.Linear, nn.LayerNorm, nn.GroupNorm)
    return has_closed_form(call, name, parameter) and type(call.layer) in known


def layer_outputs(call: LayerCall, name: str, values: Tensor) -> Tensor:
    """What a layer would give out at each sample with that sample's own value of one parameter, and the other zero.

    It is linear in the parameter, and so this is also its Jacobian-vector product in the direction ``values``.

    Args:
        call: the use of a layer that ``knows_layer`` knows, cut down to as many samples.
        name: of the parameter, ``weight`` or ``bias``.
        values: ``(batch, *parameter.shape)``.

    Returns:
        ``(batch, ...)``, an output of the layer.
    """
    layer, shape = call.layer, (len(values), *call.shape[1:])
    if name == "weight" and (columns := unfold(layer, call.input)) is not None:
        groups, outputs, _ = unfolded_shape(call)
        output = values.reshape(len(values), groups, outputs, -1) @ columns  # (batch, groups, O, P)
        return (output.squeeze(1).mT if isinstance(layer, nn.Linear) else output).reshape(shape)
    # Along the last dimensions, or along the channels.
    behind = 0 if isinstance(layer, nn.LayerNorm | nn.Linear) else len(shape) - 2
    before = len(shape) - values.dim() - behind
    spread = values.reshape(len(values), *[1] * before, *values.shape[1:], *[1] * behind).expand(shape)
    return spread * _normalize(layer, call.input) if name == "weight" else spread


def per_sample_gradients(
    call: LayerCall, name: str, parameter: nn.Parameter, cotangents: Sequence[Tensor]
) -> list[Tensor]:
    """Every sample's gradient of one parameter of a layer, for each of several cotangents.

    Args:
        call: the layer's use.
        name: of the parameter in its layer, such as ``weight``; empty for a block in place of a layer.
        parameter: the parameter.
        cotangents: of the layer's output, each in its shape.

    Returns:
        For each cotangent ``(batch, *parameter.shape)``; its sum over the batch is the gradient.
    """
    layer = call.layer
    if not cotangents:
        return []
    if not knows_layer(call, name, parameter):
        return [_by_loop(call, parameter, d) for d in cotangents]
    if name == "weight" and (columns := unfold(layer, call.input)) is not None:
        rows = columns.mT  # (batch, groups, P, K)
        return [(unfold_cotangent(layer, d) @ rows).reshape(len(d), *parameter.shape) for d in cotangents]
    if name == "bias" and type(layer) in (nn.Conv2d, nn.Linear):
        return [unfold_cotangent(layer, d).sum(3).flatten(1) for d in cotangents]
    normalized = _normalize(layer, call.input)
    # Scale and shift act on the last dimensions (LayerNorm), or on the channels.
    if type(layer) is nn.LayerNorm:
        scaled = (d * normalized if name == "weight" else d for d in cotangents)
        return [d.reshape(len(d), -1, *parameter.shape).sum(1) for d in scaled]
    if name == "bias":
        return [d.reshape(len(d), len(parameter), -1).sum(2) for d in cotangents]
    rows = normalized.reshape(-1, normalized.shape[2:].numel())  # (batch * channels, positions)
    return [linalg.products(d.reshape(rows.shape), rows.unsqueeze(1)).view(len(d), -1).to(d.dtype) for d in cotangents]


def _normalize(layer: Any, x: Tensor) -> Tensor:
    """The output of a normalisation layer before its scale and shift."""
    if type(layer) in BATCH_NORMS:
        batch_statistics = layer.training or layer.running_mean is None
        statistics = (None, None) if batch_statistics else (layer.running_mean, layer.running_var)
        return F.batch_norm(x, *statistics, training=batch_statistics, eps=layer.eps)
    if type(layer) is nn.LayerNorm:
        return F.layer_norm(x, layer.normalized_shape, eps=layer.eps)
    return F.group_norm(x, layer.num_groups, eps=layer.eps)


def _by_loop(call: LayerCall, parameter: Tensor, cotangent: Tensor) -> Tensor:
    """Any other layer: one vector-Jacobian product a sample, its cotangent alone."""
    gradients = []
    for i in range(len(cotangent)):
        alone = torch.zeros_like(cotangent)
        alone[i] = cotangent[i]
        gradients.append(call.vjp(parameter, alone))
    return torch.stack(gradients)
