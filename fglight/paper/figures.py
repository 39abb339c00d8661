"""What Figures 2 to 9 are drawn from: cells, what must be logged, and the words for each.

No plotting library: a sweep reads the cells from here.
"""

from dataclasses import dataclass
from typing import Literal

from fglight.cell import Cell


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
class Figure:
    """One figure of the paper.

    Attributes:
        number: the paper's number.
        kind: ``depth``: local train losses at the end, by block. ``losses``: train and test loss during training.
            ``dynamics``: local losses and cosine similarity during training, for some blocks.
        title: a short caption.
        curves: what is drawn, in the order of the legend.
        blocks: for ``dynamics``: an early, a middle and the last auxiliary's block.
        note: what the paper leaves open and how it is settled here.
    """

    number: int
    kind: Literal["depth", "losses", "dynamics"]
    title: str
    curves: tuple[Curve, ...]
    blocks: tuple[int, ...] = ()
    note: str = ""

    @property
    def cosine(self) -> bool:
        """Whether the runs must log ``cosine/block{j}`` between guess and target."""
        return self.kind == "dynamics"


def depth_metrics(blocks: int) -> list[str]:
    """The metrics that show losses by depth: the auxiliary networks' by block, and the network's own."""
    return [*(f"train/local_loss/block{j}" for j in range(blocks - 1)), "train/loss"]


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
    return Figure(number, "depth", title, curves, note=f"{_PERTURB} The last block's loss is the network's own.")


def _losses(number: int, blocks: int) -> Figure:
    """Figures 3 and 6: which guesses let the global loss converge?"""
    curves = (
        Curve("End-to-end", _cell(blocks, "global", "exact", "", "")),
        Curve("Local guess", _cell(blocks, "global", "local", "cnn", "weight")),
        Curve("NTK guess", _cell(blocks, "global", "ntk", "cnn", "weight")),
        Curve("Random (Gaussian) guess", _cell(blocks, "global", "gaussian", "", "weight")),
    )
    title = f"Train and test loss, global target (CIFAR-10, {blocks} blocks, CNN auxiliary)"
    return Figure(number, "losses", title, curves, note=_PERTURB)


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
    return Figure(number, "dynamics", title, curves, blocks={8: (0, 3, 6), 16: (0, 7, 14)}[blocks])


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
