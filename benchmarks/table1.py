"""The paper's Table 1 with measurements: what each pair of guess and target unlocks, and what its step costs.

python benchmarks/table1.py                          # prints the table
python benchmarks/table1.py --write                  # and writes it into benchmarks/TABLE1.md
"""

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

import flops
import memory
import timing
import torch
from cases import (
    BLOCK,
    FORWARD,
    GAUSSIAN,
    LOCAL,
    NETWORK,
    Case,
    backpropagation,
    build_network,
    estimation,
    random_batch,
)
from tables import as_markdown, machine, show

TABLE = Path(__file__).parent / "TABLE1.md"
HEADER = [
    "guess",
    "target",
    "unlocking (paper)",
    "compute (paper)",
    "ran as",
    "engine",
    "forward",
    "vJp",
    "Jvp",
    "time",
    "memory",
]
EXPLANATION = """\
*forward*, *vJp* and *Jvp* are counted FLOPs in units of one forward pass of the network (`benchmarks/flops.py`), with
auxiliary networks (3 % here) and the last block, which takes its exact gradient everywhere. A vJp of the whole network
is 1 to the activations and 1 to the weights, given as their sum; a Jvp is 1 for the tangents of activations and 1 for
those of weights. *time* and *memory* are multiples of a backpropagation step's (`benchmarks/step_time.py`).

*Unlocking* in the words of Jaderberg et al. (2017): backpropagation is forward, update and backward locked. "Backward"
lifts the backward lock: a block's update waits for the later blocks' forward passes, and not for a backward pass
through them. "Update" lifts the update lock as well: it waits for no later block. Nothing lifts the forward lock, since
every block needs the output of the one before.

The paper's claims hold for `engine=forward`. `engine=reverse` gives the same estimates from a backward pass through
activations, and is therefore backward locked for the global target; training defaults to it."""


@dataclass(frozen=True)
class Pair:
    """A guess and a target, with what the paper says of them."""

    guess: str
    target: str
    unlocking: str
    compute: str
    cases: tuple[Case, ...]


WEIGHT, ACTIVITY, TO_LOCAL = "perturb=weight", "perturb=activity", "target=local"

PAIRS = [
    Pair("end-to-end", "global", "none", "vJp", (Case("backpropagation", ("guess=exact",)),)),
    Pair(
        "local & NTK",
        "global",
        "backward",
        "vJp (local) + Jvp",
        (
            Case("local, weight, network", (LOCAL, WEIGHT, NETWORK, FORWARD)),
            Case("NTK, weight, network", ("guess=ntk", WEIGHT, NETWORK, FORWARD)),
            Case("local, weight, block", (LOCAL, WEIGHT, BLOCK, FORWARD)),
            Case("local, activity", (LOCAL, ACTIVITY, FORWARD)),
            Case("local, weight, tensor", (LOCAL, WEIGHT)),
            Case("local, activity", (LOCAL, ACTIVITY)),
        ),
    ),
    Pair(
        "local & NTK",
        "local",
        "update",
        "vJp (local)",
        (Case("local learning", ("guess=exact", TO_LOCAL)),),
    ),
    Pair(
        "random",
        "global",
        "backward",
        "Jvp",
        (
            Case("gaussian, weight, network", (GAUSSIAN, WEIGHT, NETWORK, FORWARD)),
            Case("gaussian, weight, block", (GAUSSIAN, WEIGHT, BLOCK, FORWARD)),
            Case("gaussian, activity", (GAUSSIAN, ACTIVITY, FORWARD)),
            Case("gaussian, weight, tensor", (GAUSSIAN, WEIGHT)),
            Case("gaussian, activity", (GAUSSIAN, ACTIVITY)),
        ),
    ),
    Pair(
        "random",
        "local",
        "update",
        "Jvp (local)",
        (
            Case("gaussian, weight, network", (GAUSSIAN, TO_LOCAL, WEIGHT, NETWORK, FORWARD)),
            Case("gaussian, weight, block", (GAUSSIAN, TO_LOCAL, WEIGHT, BLOCK, FORWARD)),
            Case("gaussian, activity", (GAUSSIAN, TO_LOCAL, ACTIVITY, FORWARD)),
            Case("gaussian, weight, tensor", (GAUSSIAN, TO_LOCAL, WEIGHT)),
        ),
    ),
]


def measure(blocks: int, batch: int, width: float, repeats: int, device: torch.device) -> list[list[str]]:
    """The rows of the table, as in ``HEADER``.

    Args:
        blocks: 8 or 16.
        batch: images a step.
        width: of the network.
        repeats: how often every step is timed.
        device: where to run.
    """
    model = build_network(blocks, width, device)
    images, labels = random_batch(batch, device)
    unit = flops.count(lambda: model(images), model).total
    baseline = backpropagation(model, images, labels)
    base_bytes = memory.peak(baseline, model, device)
    rows = []
    for pair in PAIRS:
        for case in pair.cases:
            step = estimation(case, model, images, labels)
            counted = flops.count(step, model) / unit
            _, times = timing.compare(baseline, {case.name: step}, repeats, device)
            rows.append(
                [
                    *(pair.guess, pair.target, pair.unlocking, pair.compute, case.name),
                    "forward" if FORWARD in case.overrides else "reverse",
                    f"{counted.forward:.2f}",
                    f"{counted.activations + counted.weights:.2f}",
                    f"{counted.tangents:.2f}",
                    f"{times[case.name].ratio:.2f}",
                    f"{memory.peak(step, model, device) / base_bytes:.2f}",
                ]
            )
    return rows


def main() -> None:
    """Parse the command line, measure, print, and write where asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--blocks", type=int, choices=(8, 16), default=8)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--width", type=float, default=1.0)
    parser.add_argument("--repeats", type=int, default=5, help="timed repetitions of every step")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--write", action="store_true", help=f"write the table into {TABLE.name}")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    rows = measure(arguments.blocks, arguments.batch, arguments.width, arguments.repeats, device)
    where = (
        f"ResNet-18 in {arguments.blocks} blocks, width {arguments.width:g}, batch {arguments.batch} of 3x32x32, CNN "
        f"auxiliaries, float32, {machine(device)}; medians of {arguments.repeats}"
    )
    show(f"Table 1: {where}", HEADER, rows)
    if arguments.write:
        command = f"`python {' '.join(sys.argv)}`: {where}."
        TABLE.write_text("\n\n".join(["# Table 1, measured", command, as_markdown(HEADER, rows), EXPLANATION]) + "\n")


if __name__ == "__main__":
    main()
