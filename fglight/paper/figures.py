"""What Figures 2 to 9 are drawn from: cells, what must be logged, and the words for each.

No plotting library: a sweep reads the cells from here.
"""

from dataclasses import dataclass
from typing import Literal

from fglight.cell import Cell
from fglight.log_names import COSINE, LOCAL_LOSS, TEST_LOSS, TRAIN_LOSS, of_block, of_split


@dataclass(frozen=True)
class Curve:
    """One curve of a figure.

    Attributes:
        label: name in the legend.
        cell: the cell whose runs are drawn.
        probe: the auxiliary network that is there for logging only, trained on detached activations (``probe=true``);
            empty where there is none.
    """

    label: str
    cell: Cell
    probe: str = ""


@dataclass(frozen=True)
class Panel:
    """One pair of axes of a figure.

    Attributes:
        title: above it; empty where the figure has one panel.
        x: ``Epoch``, or ``Block`` where the end of training is shown, a metric a block.
        y: what is shown, with its unit.
        metrics: what is shown, by the names that runs log; over epochs a line each, the second of them dashed.
    """

    title: str
    x: Literal["Epoch", "Block"]
    y: str
    metrics: tuple[str, ...]


@dataclass(frozen=True)
class Figure:
    """One figure of the paper.

    Attributes:
        number: the paper's number.
        title: a short caption.
        curves: what is drawn, in the order of the legend.
        panels: what is drawn of each curve, row by row.
        blocks: those whose training is shown: an early, a middle and the last auxiliary's; empty where it is not.
        note: what the paper leaves open and how it is settled here.
    """

    number: int
    title: str
    curves: tuple[Curve, ...]
    panels: tuple[tuple[Panel, ...], ...]
    blocks: tuple[int, ...] = ()
    note: str = ""

    @property
    def metrics(self) -> list[str]:
        """What the runs of each curve must have logged."""
        return [metric for row in self.panels for panel in row for metric in panel.metrics]

    @property
    def cosine(self) -> bool:
        """Whether the runs must log ``cosine/block{j}`` between guess and target."""
        return bool(self.blocks)


def depth_metrics(blocks: int) -> tuple[str, ...]:
    """The metrics that show losses by depth: the auxiliary networks' by block, and the network's own."""
    return (*(of_block(of_split("train", LOCAL_LOSS), j) for j in range(blocks - 1)), TRAIN_LOSS)


_PERTURB = "The paper does not say which perturbation; weight is drawn."


def _cell(blocks: int, target: str, guess: str, aux: str, perturb: str) -> Cell:
    return Cell("cifar10", blocks, 1.0, target, guess, aux, perturb)


def _depth(number: int, blocks: int) -> Figure:
    """Figures 2 and 7: does each block separate the classes better than the one before?"""
    curves = (
        Curve("End-to-end", _cell(blocks, "global", "exact", "", ""), probe="cnn"),
        Curve("Local learning", _cell(blocks, "local", "exact", "cnn", "")),
        Curve("Local guess, global target", _cell(blocks, "global", "local", "cnn", "weight")),
        Curve("Gaussian guess, global target", _cell(blocks, "global", "gaussian", "", "weight"), probe="cnn"),
        Curve("Gaussian guess, local target", _cell(blocks, "local", "gaussian", "cnn", "weight")),
    )
    title = f"Local train losses at the end of training, by block (CIFAR-10, {blocks} blocks, CNN auxiliary)"
    panel = Panel("", "Block", "Local train loss (nats)", depth_metrics(blocks))
    return Figure(number, title, curves, ((panel,),), note=f"{_PERTURB} The last block's loss is the network's own.")


def _losses(number: int, blocks: int) -> Figure:
    """Figures 3 and 6: which guesses let the global loss converge?"""
    curves = (
        Curve("End-to-end", _cell(blocks, "global", "exact", "", "")),
        Curve("Local guess", _cell(blocks, "global", "local", "cnn", "weight")),
        Curve("NTK guess", _cell(blocks, "global", "ntk", "cnn", "weight")),
        Curve("Random (Gaussian) guess", _cell(blocks, "global", "gaussian", "", "weight")),
    )
    title = f"Train and test loss, global target (CIFAR-10, {blocks} blocks, CNN auxiliary)"
    panels = (
        Panel("Train loss", "Epoch", "Cross-entropy (nats)", (TRAIN_LOSS,)),
        Panel("Test loss", "Epoch", "Cross-entropy (nats)", (TEST_LOSS,)),
    )
    return Figure(number, title, curves, (panels,), note=_PERTURB)


def _dynamics(number: int, blocks: int, perturb: str) -> Figure:
    """Figures 4, 5, 8 and 9: how far do local guess and global target agree? Eq. (6)."""
    curves = tuple(
        Curve(label, _cell(blocks, "global", "local", aux, perturb))
        for label, aux in (("CNN", "cnn"), ("MLP", "mlp"), ("Linear", "linear"))
    )
    space = {"activity": "activation", "weight": "weight"}[perturb]
    title = (
        f"Local losses, and cosine similarity of local guess and global target in {space} space "
        f"(CIFAR-10, {blocks} blocks, {perturb} perturbation)"
    )
    shown = {8: (0, 3, 6), 16: (0, 7, 14)}[blocks]
    losses = [of_split(split, LOCAL_LOSS) for split in ("train", "test")]
    panels = tuple(
        tuple(Panel(f"Block {j}", "Epoch", words, tuple(of_block(metric, j) for metric in metrics)) for j in shown)
        for words, metrics in (("Local loss (nats)", losses), ("Cosine similarity", [COSINE]))
    )
    return Figure(number, title, curves, panels, shown)


FIGURES: dict[int, Figure] = {
    figure.number: figure
    for figure in (
        _depth(2, 8),
        _losses(3, 8),
        _dynamics(4, 8, "activity"),
        _dynamics(5, 8, "weight"),
        _losses(6, 16),
        _depth(7, 16),
        _dynamics(8, 16, "activity"),
        _dynamics(9, 16, "weight"),
    )
}
