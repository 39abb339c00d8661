"""What a step costs: floating-point operations in forward passes of the network, and memory."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from fglight.estimators.buffers import Buffers
from fglight.estimators.diagnosis import generators_kept
from fglight.models.blocks import Block


@dataclass
class Costs:
    """What something costs.

    Attributes:
        flops: those of its convolutions and matrix products.
        memory: bytes that it holds at most, on top of what there is before it.
    """

    flops: float = 0
    memory: float = 0


class _Flops(TorchDispatchMode):
    """Counts what runs below autograd: forward passes, vector-Jacobian products and tangents alike."""

    def __init__(self) -> None:
        super().__init__()
        self.total = 0.0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func._overloadpacket in flop_registry:
            self.total += flop_registry[func._overloadpacket](*args, **(kwargs or {}), out_val=out)
        return out


@contextmanager
def costs(device: torch.device) -> Iterator[Costs]:
    """Tell what is done inside, once the context is left.

    Args:
        device: where it is done. On a CPU memory is what ``torch.profiler`` says of every allocation.
    """
    seen, flops = Costs(), _Flops()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        with flops:
            yield seen
        seen.memory = torch.cuda.max_memory_allocated(device) - before
    else:
        os.environ.setdefault("KINETO_LOG_LEVEL", "9")  # the profiler reports every start and stop
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler, flops:
            yield seen
        events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
        ordered = sorted(events, key=lambda event: event.start_ns())
        seen.memory = max(accumulate(event.nbytes() for event in ordered), default=0)
    seen.flops = flops.total


@torch.no_grad()
def forward_flops(blocks: Sequence[Block], images: Tensor) -> float:
    """Those of a forward pass of the network; nothing moves.

    Args:
        blocks: the network.
        images: a batch.
    """
    buffers, flops, hidden = Buffers(blocks), _Flops(), images
    with generators_kept(images.device), flops:
        for block in blocks:
            with buffers.again(block.body):
                hidden = block.body(hidden)
        with buffers.again(blocks[-1].aux):
            blocks[-1].aux(hidden)
    return flops.total
