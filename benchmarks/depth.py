"""Memory of a step over the depth of a network, drawn as docs/figures/memory_depth.png.

The network is a plain sequence of equal blocks (convolution, batch norm, ReLU), each with a linear auxiliary. What a
step adds over an idle model is split at its peak by the size of tensors, which says exactly what they are here:

- *activations*: every tensor of at least half the size of a block's output: outputs, what a graph stores, their
  cotangents and tangents, and temporaries of that size;
- *parameters*: all smaller ones: gradients and directions (each as large as the parameters, so that they grow with
  depth whatever the method), statistics of batch norm, logits.

Activations of forward mode and finite differences should not grow with depth, backpropagation's in proportion to it,
and with checkpoints by one block's input a block.

python benchmarks/depth.py                           # prints the table
python benchmarks/depth.py --write                   # and draws the figure, and writes benchmarks/DEPTH.md
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

import memory
import torch
from cases import (
    BACKPROPAGATION,
    CHECKPOINTED,
    FINITE,
    FORWARD,
    GAUSSIAN,
    LOCAL,
    NETWORK,
    REDRAW,
    Case,
    Step,
    backpropagation,
    estimation,
)
from tables import as_markdown, machine, show
from torch import nn

from fglight.models import Block, BlockNetwork

ROOT = Path(__file__).parents[1]
FIGURE = ROOT / "docs" / "figures" / "memory_depth.png"
TABLE = Path(__file__).parent / "DEPTH.md"
HEADER = ["step", "blocks", "activations, MB", "parameters, MB", "total, MB", "activations, growth", "total, growth"]
STEPS = {
    BACKPROPAGATION: None,
    "backpropagation, checkpointed": Case("", ("guess=exact", CHECKPOINTED)),
    "local guess, weight, reverse mode": Case("", (LOCAL, "perturb=weight")),
    "gaussian guess, network, forward mode": Case("", (GAUSSIAN, NETWORK, FORWARD)),
    "gaussian guess, network, finite differences, redrawn": Case("", (GAUSSIAN, NETWORK, FINITE, REDRAW)),
}
STYLES = {  # Okabe and Ito's colours, told apart by markers too
    BACKPROPAGATION: ("#0072B2", "o"),
    "backpropagation, checkpointed": ("#56B4E9", "v"),
    "local guess, weight, reverse mode": ("#E69F00", "s"),
    "gaussian guess, network, forward mode": ("#009E73", "^"),
    "gaussian guess, network, finite differences, redrawn": ("#CC79A7", "D"),
}


@dataclass(frozen=True)
class Peak:
    """What a step holds when it holds most, in bytes.

    Attributes:
        activations: in tensors as large as a block's output.
        parameters: in smaller ones.
    """

    activations: int
    parameters: int

    @property
    def total(self) -> int:
        """Both."""
        return self.activations + self.parameters


def plain_network(depth: int, channels: int) -> BlockNetwork:
    """Blocks of equal size for images of as many channels, ten classes."""

    def readout() -> nn.Module:
        return nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4 * channels, 10))

    def body() -> nn.Module:
        convolution = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        return nn.Sequential(convolution, nn.BatchNorm2d(channels), nn.ReLU())

    torch.manual_seed(0)
    return BlockNetwork(Block(body(), readout()) for _ in range(depth))


def split_peak(step: Step, model: nn.Module, threshold: int) -> Peak:
    """The peak of a step on a CPU, by the size of the tensors.

    Args:
        step: the step.
        model: whose gradients it leaves behind.
        threshold: bytes from which a tensor counts as an activation.
    """
    sizes = memory.allocations(step, model)
    large = accumulate(size if abs(size) >= threshold else 0 for size in sizes)
    return max((Peak(a, total - a) for a, total in zip(large, accumulate(sizes))), key=lambda peak: peak.total)


def measure(depths: Sequence[int], batch: int, channels: int, size: int) -> dict[str, list[Peak]]:
    """The peak of every step at every depth.

    Args:
        depths: numbers of blocks.
        batch: images a step.
        channels: of the images and of every block.
        size: height and width.
    """
    images, labels = torch.randn(batch, channels, size, size), torch.randint(10, (batch,))
    peaks: dict[str, list[Peak]] = {name: [] for name in STEPS}
    for depth in depths:
        model = plain_network(depth, channels)
        for name, case in STEPS.items():
            step = (backpropagation if case is None else lambda *args, case=case: estimation(case, *args))(
                model, images, labels
            )
            peaks[name].append(split_peak(step, model, images.nbytes // 2))
    return peaks


def rows(depths: Sequence[int], peaks: dict[str, list[Peak]]) -> list[list[str]]:
    """The table, as in ``HEADER``; growth is relative to the depth before."""
    table = []
    for name, series in peaks.items():
        for depth, here, before in zip(depths, series, [None, *series]):
            growth = ["", ""] if before is None else [_percent(here.activations, before.activations)]
            growth += [] if before is None else [_percent(here.total, before.total)]
            sizes = [f"{value / memory.MB:.1f}" for value in (here.activations, here.parameters, here.total)]
            table.append([name, str(depth), *sizes, *growth])
    return table


def draw(depths: Sequence[int], peaks: dict[str, list[Peak]], title: str, path: Path) -> None:
    """Draw memory over depth: solid lines for the activations, dotted ones for the total."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(6.4, 4.4), layout="constrained")
    for name, series in peaks.items():
        colour, marker = STYLES[name]
        activations = [peak.activations / memory.MB for peak in series]
        axes.plot(depths, activations, color=colour, marker=marker, label=name)
        axes.plot(depths, [peak.total / memory.MB for peak in series], color=colour, linestyle=":", marker=marker, ms=3)
    axes.plot([], [], color="0.3", label="activations")
    axes.plot([], [], color="0.3", linestyle=":", label="with gradients and directions")
    axes.set_xscale("log", base=2)
    axes.set_yscale("log", base=2)
    axes.set_xticks(depths, [str(depth) for depth in depths])
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.set_xlabel("depth (blocks)")
    axes.set_ylabel("peak memory a step adds (MB)")
    axes.set_title(title, fontsize=9)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=160)
    plt.close(figure)


def _percent(here: int, before: int) -> str:
    return f"{100 * (here / before - 1):+.0f} %"


def main() -> None:
    """Parse the command line, measure, print, and draw where asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--depths", type=int, nargs="+", default=[4, 8, 16, 32])
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--channels", type=int, default=32)
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--write", action="store_true", help=f"draw {FIGURE.name} and write {TABLE.name}")
    arguments = parser.parse_args()
    peaks = measure(arguments.depths, arguments.batch, arguments.channels, arguments.size)
    table = rows(arguments.depths, peaks)
    title = f"conv-BN-ReLU, {arguments.channels} channels, batch {arguments.batch} of {arguments.size}x{arguments.size}"
    where = f"{title}, float32, {machine(torch.device('cpu'))}"
    show(where, HEADER, table)
    if arguments.write:
        draw(arguments.depths, peaks, title, FIGURE)
        explanation = __doc__.partition("\n\n")[2].partition("\n\npython")[0]
        command = f"`python {' '.join(sys.argv)}`: {where}."
        figure = f"![Peak memory over depth](../{FIGURE.relative_to(ROOT)})"
        text = ["# Memory over depth", command, as_markdown(HEADER, table), explanation, figure]
        TABLE.write_text("\n\n".join(text) + "\n")


if __name__ == "__main__":
    main()
