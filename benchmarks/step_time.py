"""Time and memory of one gradient estimate as multiples of a backpropagation step's, in the same process.

python benchmarks/step_time.py                       # prints the tables
python benchmarks/step_time.py --write               # and writes them into benchmarks/RESULTS.md
"""

import argparse
import sys
from pathlib import Path

import memory
import timing
import torch
from cases import BACKPROPAGATION, CASES, backpropagation, build_network, estimation, random_batch
from tables import as_markdown, machine, ratio, show

RESULTS = Path(__file__).parent / "RESULTS.md"
HEADER = ["step", "ms", "time ratio", "goal", "MB", "memory ratio", "goal"]


def measure(blocks: int, batch: int, width: float, repeats: int, device: torch.device) -> list[list[str]]:
    """The rows of one network's table, as in ``HEADER``.

    Args:
        blocks: 8 or 16.
        batch: images a step.
        width: of the network.
        repeats: how often every case is timed; cases and backpropagation take turns.
        device: where to run.
    """
    model = build_network(blocks, width, device)
    batch = random_batch(batch, device)
    baseline = backpropagation(model, *batch)
    steps = {case.name: estimation(case, model, *batch) for case in CASES}
    base_seconds, times = timing.compare(baseline, steps, repeats, device)
    base_bytes = memory.peak(baseline, model, device)
    rows = [[BACKPROPAGATION, f"{1000 * base_seconds:.0f}", *ratio(1), f"{base_bytes / memory.MB:.0f}", *ratio(1)]]
    for case in CASES:
        time, size = times[case.name], memory.peak(steps[case.name], model, device)
        rows.append(
            [
                case.name,
                f"{1000 * time.seconds:.0f}",
                *ratio(time.ratio, case.time.get(blocks)),
                f"{size / memory.MB:.0f}",
                *ratio(size / base_bytes, case.memory),
            ]
        )
    return rows


def main() -> None:
    """Parse the command line, measure, print, and write where asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--blocks", type=int, nargs="+", choices=(8, 16), default=[8, 16])
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--width", type=float, default=1.0)
    parser.add_argument("--repeats", type=int, default=7, help="timed repetitions of every case")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--write", action="store_true", help=f"write the tables into {RESULTS.name}")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)

    where = (
        f"ResNet-18, width {arguments.width:g}, batch {arguments.batch} of 3x32x32, float32, {machine(device)}; "
        f"medians of {arguments.repeats}"
    )
    text = [
        "# Time and memory of a step",
        f"`python {' '.join(sys.argv)}`: {where}. Each case is timed right after a backpropagation step, and the time "
        "ratio is the median of the ratios. MB is the peak memory that the step adds over an idle model, its gradients "
        "included (`benchmarks/memory.py`).",
    ]
    for blocks in arguments.blocks:
        rows = measure(blocks, arguments.batch, arguments.width, arguments.repeats, device)
        show(f"{blocks} blocks: {where}", HEADER, rows)
        text += [f"## {blocks} blocks", as_markdown(HEADER, rows)]
    if arguments.write:
        RESULTS.write_text("\n\n".join(text) + "\n")


if __name__ == "__main__":
    main()
