"""What engines that run a body several times, on other tensors, find out about it first.

They must give what autograd gives. A body of one's own may stop gradients, change them on their way, or be another
function each time it runs. All of that is looked for once, on a few samples, before a network's first step.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import BackwardCFunction
from torch.overrides import TorchFunctionMode

from fglight.autodiff.buffers import rehearse
from fglight.autodiff.diagnosis import check_unchanged, checked_graph, first_sentence
from fglight.autodiff.graph import Graph
from fglight.autodiff.jvp import Again
from fglight.autodiff.layers.calls import GRAD_FN, version_of
from fglight.autodiff.parameters import without_hooks
from fglight.autodiff.rng import Generators, generators_kept
from fglight.errors import BlockError
from fglight.models.blocks import Block, trainable

SAMPLES = 8
"""How many samples a body runs on: enough for batch statistics."""

Compare = Callable[[nn.Module, Tensor, Tensor, list[nn.Parameter], Again], str]
"""Tells why an engine's derivatives of a body would not be autograd's; empty where they are. Takes the body, its input,
its output with graph, the parameters that move, and ``Again``."""


@dataclass
class Inspection:
    """What was found.

    Attributes:
        padding: rows of embeddings that no gradient reaches, by their parameters.
        draws: whether anything draws random numbers.
        dtypes: of the floating-point numbers that bodies compute with.
    """

    padding: dict[Tensor, int] = field(default_factory=dict)
    draws: bool = False
    dtypes: set[torch.dtype] = field(default_factory=set)


def inspect(
    blocks: Sequence[Block], images: Tensor, compare: Compare, *, name: str, moves: bool, pulled: bool
) -> Inspection:
    """Look at the bodies of blocks 0..J-2; nothing moves.

    Args:
        blocks: the network.
        images: a batch.
        compare: what the engine has to look for.
        name: of the engine.
        moves: whether parameters are moved.
        pulled: whether their directions are gradients of a loss.

    Raises:
        BlockError: an estimate would be wrong, naming the block and the reason.
        RuntimeError: a body cannot be run, or be differentiated.
    """
    look = partial(_inspect, blocks, compare=compare, name=name, moves=moves, pulled=pulled)
    try:
        return look(images[:SAMPLES])
    except Exception as error:
        if len(images) <= SAMPLES or isinstance(error, BlockError | torch.OutOfMemoryError):
            raise
        return look(images)  # a body may be made for one size of batch


def _inspect(
    blocks: Sequence[Block], images: Tensor, *, compare: Compare, name: str, moves: bool, pulled: bool
) -> Inspection:
    """See ``inspect``."""
    found, generators = Inspection(), Generators(images.device)
    for index, (block, x, hidden, buffers) in enumerate(rehearse(blocks, images.detach().clone())):
        if block is blocks[-1]:
            with torch.no_grad(), buffers.again(block.aux):
                block.aux(hidden)
            found.draws = generators.have_moved()
            break
        parameters = trainable(block.body) if moves else []
        with generators_kept(x.device):
            again = partial(buffers.again, block.body)
            why = try_body(block.body, x, index, parameters, again, compare, found, pulled=pulled)
        if why:
            kind = type(block.body).__name__
            raise BlockError(
                f"{name} is not possible with the body of block {index}, a {kind}, which {why}: use engine=reverse"
            )
    return found


def try_body(
    body: nn.Module,
    x: Tensor,
    index: int,
    parameters: list[nn.Parameter],
    again: Again,
    compare: Compare,
    found: Inspection,
    *,
    pulled: bool,
) -> str:
    """Why estimates of one block would be wrong; empty where they are not.

    Args:
        body: its layers.
        x: what they take in.
        index: of the block.
        parameters: those that move.
        again: lets the body run once more.
        compare: see ``inspect``.
        found: to be added to.
        pulled: see ``inspect``.

    Raises:
        BlockError: it changes its input, or cannot run on other tensors.
        RuntimeError: it cannot be run, or be differentiated.
    """
    for parameter in parameters:
        if pulled and parameter._backward_hooks:
            return "has a parameter with a hook, which would change the direction and not its product with the target"
    version, versions = version_of(x), [parameter._version for parameter in body.parameters()]
    x = x.detach().requires_grad_(index > 0 and x.is_floating_point())
    with torch.enable_grad(), without_hooks(parameters):
        with again(), generators_kept(x.device):
            output = body(x)
            graph = checked_graph(output, x, body, parameters)
        check_unchanged(index, x, version)
        try:
            with torch.no_grad(), again(), generators_kept(x.device):
                repeated = body(x)
        except RuntimeError as error:
            return f"cannot run without gradients ({first_sentence(error)})"
        if [parameter._version for parameter in body.parameters()] != versions:
            return "changes its parameters when it runs, as an embedding with max_norm does"
        if not _alike(output, repeated):
            return "gives another output each time it runs"
        found.padding.update(graph.padding())
        found.dtypes |= graph.dtypes()
        if not output.requires_grad:
            return ""
        with generators_kept(x.device):
            return compare(body, x, output, parameters, again)


def _alike(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors are the same but for rounding."""
    if one.shape != other.shape or not one.is_floating_point():
        return torch.equal(one, other)
    tolerance = torch.finfo(one.dtype).eps ** 0.5
    finite = one.isfinite() & other.isfinite()
    one, other = (x.detach()[finite].double() for x in (one, other))
    return not len(one) or bool((one - other).abs().max() <= tolerance * (1 + one.abs().max()))


def gradients_are_derivatives(
    body: nn.Module, x: Tensor, output: Tensor, parameters: list[nn.Parameter], again: Again
) -> str:
    """Why autograd's gradient is not what finite differences find; see ``Compare``."""
    graph = Graph.of(output)
    for node in graph.nodes:
        if issubclass(type(node), BackwardCFunction):
            return f"has a backward pass of its own ({type(node).__name__.removesuffix('Backward')}), or a hook on one"
        if getattr(node, "_saved_scale_grad_by_freq", False):
            return "has an embedding that scales its gradient by frequency (scale_grad_by_freq)"
    inputs = [*([x] if x.requires_grad else []), *parameters]

    def taken(output: Tensor) -> Sequence[Tensor]:
        with again():
            return torch.autograd.grad(output, inputs, cotangent, allow_unused=True, materialize_grads=True)

    why = "stops or changes gradients (detach, torch.no_grad, item, or a hook on a tensor)"
    with _Through() as through, again():
        try:
            whole = body(x)
        except Exception:  # of whatever kind, on what stands in the place of an operation
            return why
    if not through.noticed:
        return ""
    cotangent = torch.randn_like(output)  # not before the body has drawn what it drew
    gradients = taken(output)
    try:
        return "" if _alike(output, whole) and all(map(_alike, gradients, taken(whole))) else why
    except RuntimeError:
        return why


class _Through(TorchFunctionMode):
    """Lets gradients through where a body stops them, and changes a little the numbers that it reads from tensors.

    Attributes:
        noticed: whether it does so at all.
    """

    noticed = False

    def __torch_function__(
        self, function: Callable, types: Sequence[type], args: tuple = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if function in _STOPS:
            self.noticed = True
            return args[0].view_as(args[0])
        if function in (Tensor.register_hook, GRAD_FN):
            self.noticed = True
            return _Handle()
        if function is torch._C._set_grad_enabled and not args[0]:
            self.noticed = True
            return None
        kwargs = dict(kwargs or {})
        if function is torch.autograd.grad:
            self.noticed = True
            kwargs["create_graph"] = True
        if function in _READS and args[0].requires_grad:
            self.noticed = True
            return function(args[0].detach() + (1 + args[0].detach().abs()) / 100, *args[1:], **kwargs)
        return function(*args, **kwargs)


_READS = (Tensor.item, Tensor.__float__, Tensor.tolist)
_STOPS = (Tensor.detach, torch.detach, Tensor.detach_, torch.detach_, Tensor.data.__get__)  # type: ignore[attr-defined]


class _Handle:
    """Stands for an operation whose hooks are left out, and for the handle of such a hook."""

    def register_hook(self, hook: Callable) -> "_Handle":
        """Leave a hook out."""
        return self

    register_prehook = register_hook

    def remove(self) -> None:
        """Nothing is there."""
