"""What an engine cannot differentiate, and which layer it was."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from fglight.autodiff.buffers import one_tensor, rehearse
from fglight.autodiff.graph import Graph
from fglight.autodiff.layers.calls import version_of
from fglight.errors import BlockError, one_line
from fglight.models.blocks import Block, trainable

REENTRANT = "CheckpointFunctionBackward"
"""What checkpoints have in a graph whose gradients come by ``backward()`` alone."""


@dataclass
class _Calls:
    """The calls of a module's parts: those that have not come to an end, and the outputs of the others."""

    running: list[nn.Module] = field(default_factory=list)
    outputs: list[tuple[nn.Module, Tensor]] = field(default_factory=list)


Undifferentiable = tuple[int, nn.Module, str, str, str]
"""A block's index; the body, auxiliary network or head that cannot be differentiated; of its layer the name, empty for
the part itself, and the class; and the reason."""


def first_undifferentiable(blocks: Sequence[Block], inputs: Tensor, differentiate: Callable[..., object]) -> str | None:
    """The first layer that cannot be differentiated, its block and why, in words; None where all can.

    Arguments as for ``undifferentiable_layers``.
    """
    for index, part, name, kind, why in undifferentiable_layers(blocks, inputs, differentiate):
        what = "body of" if part is blocks[index].body else "auxiliary network of"
        last = part is not blocks[index].body and index == len(blocks) - 1
        where = f"{name} of block {index}" if name else "the head" if last else f"the {what} block {index}"
        return f"{where}, a {kind} ({why})"
    return None


def undifferentiable_layers(
    blocks: Sequence[Block], inputs: Tensor, differentiate: Callable[..., object]
) -> Iterator[Undifferentiable]:
    """Find the layers that cannot be differentiated, by running a network again; nothing moves.

    Args:
        blocks: the network.
        inputs: of block 0.
        differentiate: does with a body and its input what the engine does, and is told whether it is the ``last`` and
            whether it is ``crossed``, see ``Engine``.

    Yields:
        For each body the first such layer, and each auxiliary network. None from one on that cannot even be run.
    """
    with suppress(RuntimeError):
        for block, x, output, buffers in rehearse(blocks, inputs):
            last, index = block is blocks[-1], [*blocks].index(block)
            with _watched(block.body) as calls:
                try:
                    with buffers.again(block.body):
                        differentiate(block.body, x, last=last, crossed=index > 0)
                except RuntimeError as error:
                    layer = calls.running[-1] if calls.running else _without_gradient(calls)
                    names = {module: name for name, module in block.body.named_modules()}
                    kind = type(layer or block.body).__name__
                    yield index, block.body, names.get(layer, ""), kind, first_sentence(error)
            for aux in block.auxiliaries:
                with torch.no_grad(), buffers.again(block.aux):
                    aux(output.clone())
                try:
                    with buffers.again(block.aux):
                        if not differentiate_once(aux, output.clone(), crossed=True):
                            raise RuntimeError("its output has no graph")
                except RuntimeError as error:
                    yield index, aux, "", type(aux).__name__, first_sentence(error)


@torch.enable_grad()
def differentiate_once(module: nn.Module, x: Tensor, *, crossed: bool) -> bool:
    """Take gradients of what a module makes of an input; whether there were any to take.

    Args:
        module: which may run once more.
        x: what it takes in.
        crossed: whether gradients with respect to ``x`` are wanted, too.

    Raises:
        RuntimeError: it cannot be done.
    """
    x = x.detach().requires_grad_(crossed and x.is_floating_point())
    output = module(x)
    leaves = list(checked_graph(output, x, module, trainable(module)).uses)
    if leaves:
        torch.autograd.grad(output.sum(), leaves, retain_graph=True)
    return bool(leaves)


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
    graph = Graph.of(one_tensor(output, body))
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
            f"the body of block {index} changes its input in place, which others still need: use a body that "
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
                        f"{name} of block {index}, a {type(module).__name__}, has {setting}={value}: use 0"
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
