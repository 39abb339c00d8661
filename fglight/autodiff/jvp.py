"""Forward-mode automatic differentiation of one block: tangents of its output from tangents of what goes in."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from threading import RLock
from typing import Any

import torch
from torch import Tensor, func, nn
from torch.autograd import forward_ad
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

from fglight.autodiff.buffers import STATISTICS
from fglight.autodiff.graph import Graph
from fglight.autodiff.parameters import replaced
from fglight.autodiff.rng import Generators
from fglight.errors import BlockError

TANGENTS = 8
"""How many tangents one run of a block carries where there are many; each takes as much memory as a whole batch."""

_ONE_THREAD = RLock()

Again = Callable[[], AbstractContextManager[bool]]
"""A context in which a block runs once more; its value is whether it moves nothing but statistics."""


def jvp(
    body: nn.Module, x: Tensor, tangent: Tensor | None = None, parameters: Mapping[str, Tensor] | None = None
) -> tuple[Tensor, Tensor]:
    """Run a block on dual numbers: its output, and the Jacobian-vector product with one direction.

    Args:
        body: the block's layers.
        x: what they take in, ``(batch, ...)``.
        tangent: the direction's part in the space of ``x``; None: zero.
        parameters: its parts in the space of parameters, by their names; the others are zero.

    Returns:
        The output and its tangent, each ``(batch, ...)`` and without graph.
    """
    with _dual_numbers(x.device), forward_ad.dual_level():
        values = _detached(body)
        values |= {name: forward_ad.make_dual(values[name], g) for name, g in (parameters or {}).items()}
        dual = x if tangent is None else forward_ad.make_dual(x, tangent)
        with replaced(body, values):
            output = body(dual)
        return _unpack(body, output)


def jvp_from_layer(body: nn.Module, layer: nn.Module, x: Tensor, tangent: Tensor) -> Tensor:
    """The tangent of a block's output for a tangent of the output of one of its layers.

    Args:
        body: the block's layers.
        layer: one of them, used once.
        x: what the block takes in, ``(batch, ...)``.
        tangent: of the layer's output, in its shape.
    """
    hook = layer.register_forward_hook(
        lambda module, inputs, output: forward_ad.make_dual(output, tangent), prepend=True
    )
    try:
        with _dual_numbers(x.device), forward_ad.dual_level():
            with replaced(body, _detached(body)):
                output = body(x)
            return _unpack(body, output)[1]
    finally:
        hook.remove()


def jvps(body: nn.Module, x: Tensor, tangents: Tensor | Mapping[str, Tensor], again: Again) -> tuple[Tensor, Tensor]:
    """Jacobian-vector products of the output of a block that has run, with several directions.

    One run carries them all, unless it moves buffers other than the statistics of normalisation layers, or does what no
    batching rule is for (reads numbers from tensors, say).

    Args:
        body: the block's layers.
        x: what they take in, ``(batch, ...)``.
        tangents: of ``x``, ``(count, batch, ...)``, or of parameters by their names, ``(count, *parameter.shape)``. A
            run takes as much memory as ``count`` batches; callers with many directions take ``TANGENTS`` at a time.
        again: lets the block run once more.

    Returns:
        The output, ``(batch, ...)``, and its tangents, ``(count, batch, ...)``.
    """
    count = len(tangents if isinstance(tangents, Tensor) else next(iter(tangents.values())))
    if count > 1:  # batching rules cost more than they save for one
        with again() as at_once:
            if at_once:
                with suppress(RuntimeError):  # what is not possible one by one either, is told below
                    return _jvps_at_once(body, x, tangents)
    outputs = []
    for m in range(count):
        with again():
            if isinstance(tangents, Tensor):
                outputs.append(jvp(body, x, tangents[m], None))
            else:
                outputs.append(jvp(body, x, None, {name: t[m] for name, t in tangents.items()}))
    return outputs[0][0], torch.stack([tangent for _, tangent in outputs])


def _jvps_at_once(body: nn.Module, x: Tensor, tangents: Tensor | Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    of_input = isinstance(tangents, Tensor)
    values = _detached(body)
    start = x if of_input else {name: values[name] for name in tangents}

    def function(moving: Any) -> Tensor:
        with replaced(body, values if of_input else {**values, **moving}):
            return body(moving if of_input else x)

    with _dual_numbers(x.device), _without_statistics(body):
        out: Any = (None, 0)
        at_once = func.vmap(lambda tangent: func.jvp(function, (start,), (tangent,))[:2], out_dims=out)
        output, moved = at_once(tangents)
    check_swapped(body, output, "engine=forward")
    return output.detach(), moved.detach()


def jvp_by_sample(body: nn.Module, x: Tensor, name: str, directions: Tensor, again: Again) -> Tensor:
    """The tangent of each sample's output as one parameter moves along that sample's direction.

    Args:
        body: the block's layers.
        x: what they take in, ``(batch, ...)``.
        name: of the parameter.
        directions: ``(batch, *parameter.shape)``.
        again: lets the block run once more.

    Returns:
        A tangent of the output, ``(batch, ...)``.
    """
    rows = []
    for samples in torch.arange(len(x), device=x.device).split(TANGENTS):
        moved = jvps(body, x, {name: directions[samples]}, again)[1]  # (samples, batch, ...)
        rows.append(moved[torch.arange(len(samples), device=x.device), samples])
    return torch.cat(rows)


@contextmanager
def plain_attention() -> Iterator[None]:
    """Keep ``nn.MultiheadAttention`` from its fast path for evaluation without gradients.

    It has no forward-mode derivative, and its output lies in memory in another order, in which random directions would
    be drawn. One thread at a time: this setting, torch's level of dual numbers and the default generators are those of
    all threads.
    """
    with _ONE_THREAD:
        fast = torch.backends.mha.get_fastpath_enabled()
        torch.backends.mha.set_fastpath_enabled(False)
        try:
            yield
        finally:
            torch.backends.mha.set_fastpath_enabled(fast)


_NORMS = {F.batch_norm: 3, F.instance_norm: 3, F.layer_norm: 2, F.group_norm: 2}
"""Which argument of them the weight is."""


class _Tangents(TorchFunctionMode):
    """Has ``torch.no_grad()`` stop tangents as it stops gradients, and normalisation keep their dtype.

    Normalisation of bfloat16 numbers by float32 parameters, as under autocast, would give float32 tangents of a
    bfloat16 output.
    """

    def __torch_function__(
        self, function: Callable, types: Sequence[type], args: tuple = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if (position := _NORMS.get(function)) is not None:
            x, weight = args[0], args[position] if len(args) > position else kwargs.get("weight")
            casts = position == 2 and x.device.type != "cpu"  # there, autocast has them give out float32
            if weight is not None and weight.dtype != x.dtype and not casts:
                return function(x.to(weight.dtype), *args[1:], **kwargs).to(x.dtype)
        result = function(*args, **kwargs)
        if function is torch._C._set_grad_enabled:
            torch._C._set_fwd_grad_enabled(args[0])
        return result


@contextmanager
def _dual_numbers(device: torch.device) -> Iterator[None]:
    """Run blocks for their tangents, on parameters that are detached.

    Raises:
        RuntimeError: random numbers were drawn, which would be others in another run.
    """
    generators = Generators(device)
    # Gradients are on, or nothing would tell torch.no_grad() in a block from its surroundings. Of the attention kernels
    # only this one has a forward-mode derivative.
    with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH), forward_ad._set_fwd_grad_enabled(True), _Tangents():
        yield
    if generators.have_moved():
        raise RuntimeError("it draws random numbers, which would be others in each run")


@contextmanager
def _without_statistics(body: nn.Module) -> Iterator[None]:
    """Take from normalisation layers the running statistics, which several tangents at once cannot move."""
    layers = [m for m in body.modules() if type(m) in STATISTICS and m.training]
    kept = [dict(layer._buffers) for layer in layers]
    for layer in layers:
        layer._buffers.update(dict.fromkeys(layer._buffers))
    try:
        yield
    finally:
        for layer, buffers in zip(layers, kept):
            layer._buffers.update(buffers)


def _detached(body: nn.Module) -> dict[str, Tensor]:
    return {name: parameter.detach() for name, parameter in body.named_parameters()}


def _unpack(body: nn.Module, output: Tensor) -> tuple[Tensor, Tensor]:
    check_swapped(body, output, "engine=forward")
    primal, tangent = forward_ad.unpack_dual(output)
    primal = primal.detach()
    return primal, torch.zeros_like(primal) if tangent is None else tangent.detach()


def check_swapped(body: nn.Module, output: Tensor, engine: str) -> None:
    """Refuse a body that keeps a parameter where it cannot be replaced by another tensor.

    Args:
        body: the body, which ran with other tensors without graph in the place of its parameters.
        output: what it gave out, with gradients turned on.
        engine: that runs it so.

    Raises:
        BlockError: naming the parameter.
    """
    if output.requires_grad:
        uses = Graph.of(output).uses
        for name, parameter in body.named_parameters():
            if uses[parameter]:
                raise BlockError(
                    f"{engine} cannot move {name} of a {type(body).__name__}, which is used otherwise than as an "
                    "attribute of its module (kept in a list, say): use engine=reverse"
                )


def shares(tangents: Tensor, gradient: Tensor) -> Tensor:
    """Each sample's share of ⟨gradient, tangent⟩, ``(count, batch)``, for tangents ``(count, batch, ...)``."""
    return (tangents * gradient).unsqueeze(-1).flatten(2).sum(2)
