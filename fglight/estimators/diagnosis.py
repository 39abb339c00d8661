"""What an engine cannot differentiate, and which layer it was."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from fglight.errors import BlockError, one_line
from fglight.estimators.buffers import Buffers
from fglight.estimators.generators import generators_kept
from fglight.estimators.graph import Graph
from fglight.estimators.layers import version_of
from fglight.models.blocks import Block

REENTRANT = "CheckpointFunctionBackward"
"""What checkpoints have in a graph whose gradients come by ``backward()`` alone."""


@dataclass
class _Calls:
    """The calls of a module's parts: those that have not come to an end, and the outputs of the others."""

    running: list[nn.Module] = field(default_factory=list)
    outputs: list[tuple[nn.Module, Tensor]] = field(default_factory=list)


def name_culprit(blocks: Sequence[Block], inputs: Tensor, differentiate: Callable[..., object]) -> str | None:
    """The first layer that cannot be differentiated, its block and why, in words; None where all can.

    Arguments as for ``culprits``.
    """
    for index, name, kind, why in culprits(blocks, inputs, differentiate):
        where = f"{name} of block {index}" if name else f"the body of block {index}"
        return f"{where}, a {kind} ({why})"
    return _auxiliary_culprit(blocks, inputs)


def _auxiliary_culprit(blocks: Sequence[Block], inputs: Tensor) -> str | None:
    """The first auxiliary network, or the head, that cannot be differentiated on an output that has a gradient."""
    buffers = Buffers(blocks)
    with generators_kept(inputs.device):
        for index, block in enumerate(blocks):
            try:
                with torch.no_grad(), buffers.again(block.body):
                    inputs = block.body(inputs)
                with torch.no_grad(), buffers.again(block.aux):
                    for aux in block.auxiliaries:
                        aux(inputs.clone())
            except RuntimeError:
                return None
            for aux in block.auxiliaries:
                given = inputs.detach().requires_grad_(inputs.is_floating_point())
                try:
                    with torch.enable_grad(), buffers.again(block.aux):
                        output = aux(given)
                        leaves = checked_graph(output, given, aux, [*aux.parameters()]).uses
                        if not leaves:
                            raise RuntimeError("its output has no graph")
                        torch.autograd.grad(output.sum(), list(leaves))
                except RuntimeError as error:
                    part = "head" if block is blocks[-1] else f"auxiliary network of block {index}"
                    return f"the {part}, a {type(aux).__name__} ({first_sentence(error)})"
    return None


def culprits(
    blocks: Sequence[Block], inputs: Tensor, differentiate: Callable[..., object]
) -> Iterator[tuple[int, str, str, str]]:
    """Find the layers that cannot be differentiated, by running blocks 0..J-1 again; nothing moves.

    Args:
        blocks: the network.
        inputs: of block 0.
        differentiate: does with a body and its input what the engine does, and is told whether it is the ``last`` and
            whether it is ``crossed``, see ``Engine``.

    Yields:
        For the first such layer of each block: the block, the layer's name in its body, its class and the reason. None
        from a block on that cannot even be run.
    """
    buffers = Buffers(blocks)
    with generators_kept(inputs.device):
        for index, block in enumerate(blocks):
            try:
                with torch.no_grad(), buffers.again(block.body):
                    output = block.body(inputs)
            except RuntimeError:
                return
            try:
                with buffers.again(block.body), _watched(block.body) as calls:
                    differentiate(block.body, inputs, last=block is blocks[-1], crossed=index > 0)
            except RuntimeError as error:
                layer = calls.running[-1] if calls.running else _without_gradient(calls)
                names = {module: name for name, module in block.body.named_modules()}
                kind = type(layer or block.body).__name__
                yield index, names.get(layer, ""), kind, first_sentence(error)
            inputs = output


def first_sentence(error: Exception) -> str:
    """The first sentence of an error's text, on one line."""
    return one_line(error).partition(". ")[0].rstrip(".")


def checked_graph(output: Any, x: Tensor, body: nn.Module, parameters: Sequence[nn.Parameter]) -> Graph:
    """The graph of what a body gave out, if a step can do with it.

    Args:
        output: what it is.
        x: what the body took in.
        body: the body.
        parameters: those that are trained.

    Raises:
        BlockError: it is no tensor.
        RuntimeError: gradients of parameters are left out of its graph, as checkpoints do whose gradients come by
            ``backward()`` alone.
    """
    if not isinstance(output, Tensor):
        raise BlockError(
            f"the body of a block must give one tensor, and a {type(body).__name__} gives a {type(output).__name__}: "
            "wrap it in a module that hands on the tensor that the next block takes"
        )
    graph = Graph.of(output)
    if graph.has(REENTRANT):
        raise RuntimeError("torch.utils.checkpoint needs use_reentrant=False here")
    if torch.is_grad_enabled() and parameters and not output.requires_grad and output is not x:
        raise RuntimeError(
            "it has trained parameters, and its output no graph: torch.no_grad, detach, or torch.utils.checkpoint with "
            "use_reentrant=True"
        )
    return graph


def check_unchanged(index: int, x: Tensor | None, version: int | None) -> None:
    """Refuse a body that modifies its input, which others still need.

    Args:
        index: of the block.
        x: its input; None where that is not there any more.
        version: what ``version_of`` told before.

    Raises:
        BlockError: naming the block.
    """
    if x is not None and version_of(x) != version:
        raise BlockError(
            f"the body of block {index} changes its input in place, which others still need: accepted is a body that "
            "leaves it as it is, with inplace=False in the first layer"
        )


def check_deterministic(blocks: Sequence[Block]) -> None:
    """Refuse bodies with a module that is set to draw random numbers, for forward mode.

    Raises:
        BlockError: naming the module and its setting.
    """
    for index, block in enumerate(blocks[:-1]):
        for name, module in block.body.named_modules():
            # Dropout and stochastic depth have a probability p, attention and recurrent layers one named dropout.
            for setting in ("p", "dropout"):
                value = getattr(module, setting, None)
                if module.training and isinstance(value, float | int) and 0 < value <= 1:
                    raise BlockError(
                        "engine=forward runs a block several times and needs the same output each time, but "
                        f"{name} of block {index}, a {type(module).__name__}, has {setting}={value}: accepted is 0"
                    )


@contextmanager
def _watched(body: nn.Module) -> Iterator[_Calls]:
    calls = _Calls()

    def begin(module: nn.Module, inputs: tuple) -> None:
        calls.running.append(module)

    def end(module: nn.Module, inputs: tuple, output: object) -> None:
        calls.running.pop()
        if isinstance(output, Tensor) and torch.is_grad_enabled():  # inside of a checkpoint, they are off
            calls.outputs.append((module, output))

    modules = [module for module in body.modules() if not isinstance(module, torch.jit.ScriptModule)]  # without hooks
    hooks = [module.register_forward_pre_hook(begin) for module in modules]
    hooks += [module.register_forward_hook(end) for module in modules]
    try:
        yield calls
    finally:
        for hook in hooks:
            hook.remove()


def _without_gradient(calls: _Calls) -> nn.Module | None:
    """The first module, innermost ones before those that they are in, whose output has no gradient."""
    for module, output in list(calls.outputs):
        if output.requires_grad:
            graph = Graph.of(output)
            if graph.has(REENTRANT):
                return module
            try:
                torch.autograd.grad(output.sum(), list(graph.uses), retain_graph=True)
            except RuntimeError:
                return module
    return None
