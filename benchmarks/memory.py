"""Peak memory that a step adds over an idle model: parameters loaded, no gradients.

On CUDA it is the caching allocator's own peak. A CPU's allocator keeps no such count, but it reports every allocation
and every release to ``torch.profiler``, temporaries inside operations included. The running sum of these gives the peak
to the byte, the same in every run. (The resident set of a process, the other candidate, depends on what malloc keeps,
and a dispatch mode sees only what operations return.) What this leaves out is scratch space that oneDNN takes from
malloc itself.

python benchmarks/memory.py                          # prints the peak of every case
"""

import argparse
import gc
import os
from collections.abc import Sequence
from itertools import accumulate

os.environ.setdefault("KINETO_LOG_LEVEL", "9")  # before torch is imported: the profiler reports every start and stop

import torch
from cases import (
    BACKPROPAGATION,
    CASES,
    INFERENCE,
    Case,
    Step,
    backpropagation,
    build_network,
    estimation,
    inference,
    random_batch,
)
from tables import machine, show
from torch import nn

from fglight.diagnostics import profile as costs

MB = 1e6


def peak(step: Step, model: nn.Module, device: torch.device) -> int:
    """Bytes that a step holds at most, gradients included, on top of what an idle model takes.

    Args:
        step: run twice, the first time to warm up.
        model: whose gradients the step leaves behind.
        device: where it runs.
    """
    if device.type != "cuda":
        return max(accumulate(allocations(step, model)))
    _idle(step, model)
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    step()
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device) - before


def allocations(step: Step, model: nn.Module) -> list[int]:
    """What a step on a CPU allocates (bytes above zero) and releases (below zero), in order.

    Args:
        step: run twice, the first time to warm up.
        model: whose gradients the step leaves behind.
    """
    _idle(step, model)
    with costs.allocations() as sizes:
        step()
    return sizes


def measure(
    blocks: int, batch: int, width: float, device: torch.device, cases: Sequence[Case] = CASES
) -> dict[str, int]:
    """Peak bytes of backpropagation, of inference and of each case.

    Args:
        blocks: 8 or 16.
        batch: images a step.
        width: of the network.
        device: where to run.
        cases: what to measure.
    """
    model = build_network(blocks, width, device)
    images, labels = random_batch(batch, device)
    baselines = {BACKPROPAGATION: backpropagation, INFERENCE: inference}
    peaks = {name: peak(step(model, images, labels), model, device) for name, step in baselines.items()}
    return peaks | {case.name: peak(estimation(case, model, images, labels), model, device) for case in cases}


def _idle(step: Step, model: nn.Module) -> None:
    """Warm up, then leave nothing behind."""
    step()
    model.zero_grad(set_to_none=True)
    gc.collect()


def main() -> None:
    """Parse the command line, measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--blocks", type=int, nargs="+", choices=(8, 16), default=[8, 16])
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--width", type=float, default=1.0)
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    for blocks in arguments.blocks:
        peaks = measure(blocks, arguments.batch, arguments.width, device)
        rows = [[name, f"{size / MB:.0f}", f"{size / peaks[BACKPROPAGATION]:.2f}"] for name, size in peaks.items()]
        title = f"{blocks} blocks, width {arguments.width:g}, batch {arguments.batch}, {machine(device)}"
        show(title, ["step", "MB", "ratio"], rows)


if __name__ == "__main__":
    main()
