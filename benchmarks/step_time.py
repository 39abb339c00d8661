"""Time of one gradient estimate as a multiple of a backpropagation step of the same model in the same process.

python benchmarks/step_time.py                       # prints the table
python benchmarks/step_time.py --write               # and writes it into benchmarks/RESULTS.md
"""

import argparse
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table

from fglight import build_estimator, build_model, load_config

RESULTS = Path(__file__).parent / "RESULTS.md"

# What is timed: name, Hydra overrides, and the goal for (8 blocks, 16 blocks).
CASES: list[tuple[str, list[str], tuple[float | None, float | None]]] = [
    ("local learning", ["guess=exact", "target=local"], (0.95, 0.95)),
    ("local guess, activity", ["guess=local", "perturb=activity"], (1.30, 1.30)),
    ("local guess, activity, cosine", ["guess=local", "perturb=activity"], (None, None)),
    ("local guess, weight", ["guess=local", "perturb=weight"], (1.60, 1.55)),
    ("local guess, weight, cosine", ["guess=local", "perturb=weight"], (None, None)),
    ("NTK guess, activity", ["guess=ntk", "perturb=activity"], (None, None)),
    ("gaussian guess, activity", ["guess=gaussian", "perturb=activity"], (1.20, 1.20)),
    ("gaussian guess, weight", ["guess=gaussian", "perturb=weight"], (1.10, 1.10)),
    ("local guess, activity span", ["guess=local", "perturb=activity_span"], (1.40, 1.40)),
    ("local guess, weight per sample", ["guess=local", "perturb=weight_per_sample"], (2.0, 2.0)),
]


@contextmanager
def _clock(device: torch.device, times: list[float]) -> Iterator[None]:
    """Append the seconds that the context takes to ``times``."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    yield
    if device.type == "cuda":
        torch.cuda.synchronize()
    times.append(time.perf_counter() - start)


def measure(
    blocks: int, batch: int, width: float, repeats: int, device: torch.device
) -> dict[str, tuple[float, float]]:
    """Median seconds of each case, and the median of its ratio to the backpropagation step next to it.

    Args:
        blocks: 8 or 16.
        batch: images a step, 3x32x32 each.
        width: of the network.
        repeats: how often every case is timed; cases and backpropagation take turns.
        device: where to run.
    """
    common = [f"model=resnet18_{blocks}", f"model.width={width}", "data=cifar10"]
    torch.manual_seed(0)
    model = build_model(load_config(common)).to(device)
    images = torch.randn(batch, 3, 32, 32, device=device)
    labels = torch.randint(10, (batch,), device=device)

    def backpropagation() -> None:
        model.zero_grad(set_to_none=True)
        F.cross_entropy(model(images), labels).backward()

    def case(name: str, overrides: list[str]) -> Callable[[], object]:
        estimator = build_estimator(load_config(common + overrides))
        return lambda: estimator.estimate(model, images, labels, cosine="cosine" in name)

    steps = {name: case(name, overrides) for name, overrides, _ in CASES}
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    ratios: dict[str, list[float]] = {name: [] for name in steps}
    baseline: list[float] = []
    for repeat in range(repeats + 1):
        for name, step in steps.items():
            with _clock(device, baseline):
                backpropagation()
            with _clock(device, seconds[name]):
                step()
            ratios[name].append(seconds[name][-1] / baseline[-1])
        if repeat == 0:  # warm-up
            for times in (*seconds.values(), *ratios.values(), baseline):
                times.clear()
    result = {"backpropagation": (statistics.median(baseline), 1.0)}
    return result | {name: (statistics.median(seconds[name]), statistics.median(ratios[name])) for name in steps}


def _machine(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{torch.get_num_threads()} threads, {platform.machine()} CPU"


def main() -> None:
    """Parse the command line, measure, print, and write where asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--blocks", type=int, nargs="+", choices=(8, 16), default=[8, 16])
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--width", type=float, default=1.0)
    parser.add_argument("--repeats", type=int, default=7, help="timed repetitions of every case")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--write", action="store_true", help=f"write the table into {RESULTS.name}")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)

    results = {
        blocks: measure(blocks, arguments.batch, arguments.width, arguments.repeats, device)
        for blocks in arguments.blocks
    }
    goals = {name: dict(zip((8, 16), goal)) for name, _, goal in CASES}
    header = ["step", *(f"{blocks} blocks: {what}" for blocks in results for what in ("ms", "ratio", "goal"))]
    rows = []
    for name in ["backpropagation", *goals]:
        row = [name]
        for blocks, measured in results.items():
            goal = goals.get(name, {}).get(blocks)
            row += [f"{1000 * measured[name][0]:.0f}", f"{measured[name][1]:.2f}", f"{goal:.2f}" if goal else ""]
        rows.append(row)

    title = (
        f"ResNet-18, width {arguments.width:g}, batch {arguments.batch} of 3x32x32, float32, "
        f"{_machine(device)}, torch {torch.__version__}; medians of {arguments.repeats}"
    )
    table = Table(*header, title=title)
    for row in rows:
        table.add_row(*row)
    Console(width=max(120, Console().width)).print(table)
    if arguments.write:
        lines = [
            "# Time of a step",
            "",
            f"`python {' '.join(sys.argv)}`: {title}. Each case is timed right after a",
            "",
        ]
        lines[2] += " backpropagation step, and the ratio is the median of the ratios."
        lines += ["| " + " | ".join(header) + " |", "|" + " --- |" * len(header)]
        lines += ["| " + " | ".join(row) + " |" for row in rows]
        RESULTS.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
