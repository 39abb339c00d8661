"""Time of a step as a multiple of a backpropagation step of the same model in the same process."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from cases import Step


@dataclass(frozen=True)
class Time:
    """How long a step takes.

    Attributes:
        seconds: median.
        ratio: median of the ratios to the backpropagation steps right before.
    """

    seconds: float
    ratio: float


Clock = Callable[[], float]
"""Tells the time in seconds."""


def seconds(step: Step, device: torch.device, clock: Clock = time.perf_counter) -> float:
    """How long one step takes, until the device has done all of it."""
    synchronize(device)
    start = clock()
    step()
    synchronize(device)
    return clock() - start


def compare(
    baseline: Step, steps: dict[str, Step], repeats: int, device: torch.device, clock: Clock = time.perf_counter
) -> tuple[float, dict[str, Time]]:
    """Time steps in turn, each right after a step of the baseline, so that a machine's moods meet both.

    Args:
        baseline: what they are compared with.
        steps: by name.
        repeats: how often each is timed, after one round of warm-up.
        device: where they run.
        clock: by which; ``time.process_time`` hardly feels what else runs on a CPU.

    Returns:
        Median seconds of the baseline, and the time of each step.
    """
    pairs: dict[str, list[tuple[float, float]]] = {name: [] for name in steps}
    for _ in range(repeats + 1):
        for name, step in steps.items():
            pairs[name].append((seconds(baseline, device, clock), seconds(step, device, clock)))
    timed = {name: pair[1:] for name, pair in pairs.items()}
    return statistics.median(before for pair in timed.values() for before, _ in pair), {
        name: Time(
            statistics.median(own for _, own in pair),
            statistics.median(own / before for before, own in pair),
        )
        for name, pair in timed.items()
    }


def synchronize(device: torch.device) -> None:
    """Wait until a GPU has done what it was given; CPUs always have."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
