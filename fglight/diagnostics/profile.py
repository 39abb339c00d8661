"""What a step costs: floating-point operations in forward passes of the network, and memory."""

import gc
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from functools import cache
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from fglight.autodiff.buffers import dry_run
from fglight.autodiff.rng import generators_kept
from fglight.errors import BlockError
from fglight.estimators.engines.forward import ForwardMode
from fglight.estimators.estimator import GradientEstimator
from fglight.memory_format import as_memory_format
from fglight.models.blocks import Block

FEW = 8
"""Images on which FLOPs are counted that grow with them."""


@dataclass
class Costs:
    """What something costs.

    Attributes:
        flops: those of its convolutions and matrix products.
        memory: bytes that it holds at most, on top of what there is before it.
    """

    flops: float = 0
    memory: float = 0


def _convolution_backward(
    gradient: Tensor, x: Tensor, weight: Tensor, *others: Any, out_val: Sequence[Tensor | None]
) -> float:
    """Each gradient takes what the convolution does; torch's own formula takes all channels of groups for connected."""
    transposed = others[4]
    points = len(x) * (x if transposed else gradient).shape[2:].numel()
    return 2 * points * weight.numel() * sum(one is not None for one in out_val[:2])


@cache
def _formula(func: Any) -> tuple[Callable[..., float] | None, bool]:
    """What tells the cost of an operation, if anything does; and whether it is made of others."""
    packet = func._overloadpacket
    formula = _convolution_backward if packet is torch.ops.aten.convolution_backward else flop_registry.get(packet)
    return formula, formula is None and func._can_decompose()


class FlopCounter(TorchDispatchMode):
    """Adds up what is dispatched below autograd: forward passes, vector-Jacobian products and tangents alike."""

    def __init__(self) -> None:
        super().__init__()
        self.total = 0.0

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None) -> Any:
        kwargs = kwargs or {}
        formula, is_composite = _formula(func)
        if is_composite:
            with self:  # composite operations get here undecomposed from inference mode and from function transforms
                return func.decompose(*args, **kwargs)
        out = func(*args, **kwargs)
        self.see(func, out)
        if formula is not None:
            self.add(formula(*args, **kwargs, out_val=out), func, args, out)
        return out

    def see(self, func: Any, out: Any) -> None:
        """Called for every operation, with what it gave."""

    def add(self, flops: float, func: Any, args: tuple, out: Any) -> None:
        """Add an operation whose cost is known.

        Args:
            flops: what it took.
            func: the operation.
            args: its arguments.
            out: what it gave.
        """
        self.total += flops


@contextmanager
def allocations() -> Iterator[list[int]]:
    """Tell what is allocated on a CPU (bytes above zero) and released (below zero) inside, once the context is left."""
    os.environ.setdefault("KINETO_LOG_LEVEL", "9")  # the profiler reports every start and stop
    sizes: list[int] = []
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        yield sizes
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    sizes.extend(event.nbytes() for event in sorted(events, key=lambda event: event.start_ns()))


@contextmanager
def costs(device: torch.device) -> Iterator[Costs]:
    """Tell what is done inside, once the context is left.

    Args:
        device: where it is done. On a CPU memory is what ``torch.profiler`` says of every allocation.
    """
    seen, flops = Costs(), FlopCounter()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        with flops:
            yield seen
        seen.memory = torch.cuda.max_memory_allocated(device) - before
    else:
        with allocations() as sizes, flops:
            yield seen
        seen.memory = max(accumulate(sizes), default=0)
    seen.flops = flops.total


@dataclass(frozen=True)
class StepCosts:
    """What a step of an estimator costs.

    Attributes:
        forwards: FLOPs, in forward passes of the network on the batch; of steps that take turns, the mean.
        memory: bytes at most, on top of the network and its gradients.
    """

    forwards: float
    memory: float


def step_costs(estimator: GradientEstimator, blocks: Sequence[Block], images: Tensor, labels: Tensor) -> StepCosts:
    """Count what a step costs, by steps on copies: nothing moves. The first of them warms up.

    Args:
        estimator: what takes it.
        blocks: the network.
        images: a batch.
        labels: of the batch.
    """
    period, found = estimator.coefficient.period, []
    with generators_kept(images.device):
        network, copied = deepcopy((nn.ModuleList(blocks), estimator))
        copied.estimate(network, images, labels)
        copied.coefficient.load_state_dict({})
        for _ in range(1 if period == 1 else 2):
            network.zero_grad(set_to_none=True)
            gc.collect()  # what goes meanwhile was there before
            with costs(images.device) as seen:
                copied.estimate(network, images, labels)
            found.append(seen)
    forward = forward_flops(blocks, as_memory_format(images, estimator.channels_last))
    fresh, later = found[0].flops, found[-1].flops
    flops = later + (fresh - later) / period
    return StepCosts(flops / forward if forward else 0.0, max(seen.memory for seen in found))


def forward_mode_forwards(
    estimator: GradientEstimator, blocks: Sequence[Block], images: Tensor, labels: Tensor
) -> float | None:
    """What the step of an estimator that projects costs in forward mode, in forward passes of the network.

    A few images tell, unless the number of derivatives depends on how many there are.

    Args:
        estimator: what takes it.
        blocks: the network.
        images: a batch.
        labels: of the batch.

    Returns:
        The cost, as ``step_costs`` gives it; None where forward mode refuses.
    """
    few = None if estimator.perturbation.spans else FEW
    copied = deepcopy(estimator)
    copied.engine = ForwardMode()
    try:
        return step_costs(copied, blocks, images[:few], labels[:few]).forwards
    except (ValueError, BlockError):
        return None


def forward_flops(blocks: Sequence[Block], images: Tensor) -> float:
    """Those of a forward pass of the network; nothing moves.

    Args:
        blocks: the network.
        images: a batch.
    """
    with FlopCounter() as flops:
        dry_run(blocks, images)
    return flops.total
