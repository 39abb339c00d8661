"""Forward-mode automatic differentiation of one block: tangents of its output from tangents of what goes in."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.func import functional_call, jvp, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.modules.batchnorm import _NormBase

TANGENTS = 8
"""How many tangents one run of a block carries where there are many; each takes as much memory as a whole batch."""


def pushforward(
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
    with _dual_numbers():
        duals = dict(body.named_parameters())
        duals = {name: forward_ad.make_dual(duals[name].detach(), g) for name, g in (parameters or {}).items()}
        output = functional_call(body, duals, (x if tangent is None else forward_ad.make_dual(x, tangent),))
        return _unpack(output)


def pushforward_from(body: nn.Module, layer: nn.Module, x: Tensor, tangent: Tensor) -> Tensor:
    """The tangent of a block's output for a tangent of the output of one of its layers.

    Args:
        body: the block's layers.
        layer: one of them, used once.
        x: what the block takes in, ``(batch, ...)``.
        tangent: of the layer's output, in its shape.
    """
    hook = layer.register_forward_hook(lambda module, inputs, output: forward_ad.make_dual(output, tangent))
    try:
        with _dual_numbers():
            return _unpack(body(x))[1]
    finally:
        hook.remove()


def pushforward_all(body: nn.Module, x: Tensor, tangents: Tensor | Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Jacobian-vector products of a block's output with several directions, in one run.

    Args:
        body: the block's layers, under ``still``.
        x: what they take in, ``(batch, ...)``.
        tangents: of ``x``, ``(count, batch, ...)``, or of parameters by their names, ``(count, *parameter.shape)``. A
            run takes as much memory as ``count`` batches; callers with many directions take ``TANGENTS`` at a time.

    Returns:
        The output, ``(batch, ...)``, and its tangents, ``(count, batch, ...)``.
    """
    of_input = isinstance(tangents, Tensor)
    if len(tangents if of_input else next(iter(tangents.values()))) == 1:  # batching rules cost more than they save
        alone = (tangents[0], None) if of_input else (None, {name: t[0] for name, t in tangents.items()})
        output, tangent = pushforward(body, x, *alone)
        return output, tangent.unsqueeze(0)
    if of_input:
        function, start = body, x
    else:
        start = {name: body.get_parameter(name).detach() for name in tangents}

        def function(parameters: Mapping[str, Tensor]) -> Tensor:
            return functional_call(body, parameters, (x,))

    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        return vmap(lambda tangent: jvp(function, (start,), (tangent,)), out_dims=(None, 0))(tangents)


def pushforward_each(body: nn.Module, x: Tensor, name: str, directions: Tensor) -> Tensor:
    """The tangent of each sample's output as one parameter moves along that sample's direction.

    Args:
        body: the block's layers, under ``still``.
        x: what they take in, ``(batch, ...)``.
        name: of the parameter.
        directions: ``(batch, *parameter.shape)``.

    Returns:
        A tangent of the output, ``(batch, ...)``.
    """
    parameter = body.get_parameter(name).detach()

    def row(i: Tensor, direction: Tensor) -> Tensor:
        tangent = jvp(lambda p: functional_call(body, {name: p}, (x,)), (parameter,), (direction,))[1]
        return tangent.index_select(0, i.view(1)).squeeze(0)

    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        return vmap(row, chunk_size=TANGENTS)(torch.arange(len(x), device=x.device), directions)


@contextmanager
def still(module: nn.Module) -> Iterator[None]:
    """Let a module run again with the statistics of the batch, without moving its running statistics."""
    moving = [m for m in module.modules() if isinstance(m, _NormBase) and m.training and m.track_running_stats]
    for layer in moving:
        layer.track_running_stats = False
    try:
        yield
    finally:
        for layer in moving:
            layer.track_running_stats = True


@contextmanager
def plain_attention() -> Iterator[None]:
    """Keep ``nn.MultiheadAttention`` from its fast path for evaluation without gradients.

    It has no forward-mode derivative, and its output lies in memory in another order, in which random directions would
    be drawn.
    """
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


@contextmanager
def _dual_numbers() -> Iterator[None]:
    # Of the attention kernels only this one has a forward-mode derivative.
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), forward_ad.dual_level():
        yield


def _unpack(output: Tensor) -> tuple[Tensor, Tensor]:
    primal, tangent = forward_ad.unpack_dual(output)
    return primal, torch.zeros_like(primal) if tangent is None else tangent
