"""How the paper trained the cells of its tables, and which components they have."""

from dataclasses import dataclass, replace
from functools import cache

from fglight.cell import Cell
from fglight.paper import published

RANDOM_GUESSES = ("gaussian", "rademacher")

MODELS = {8: "resnet18_8", 16: "resnet18_16"}
"""The choices of ``model`` by the number of blocks."""


@dataclass(frozen=True)
class Recipe:
    """How the paper trains a cell (Sec. 4.1, App. A.3).

    Attributes:
        lr: initial learning rate.
        lr_step: epochs between decays.
        lr_gamma: factor of a decay.
        epochs: number of epochs.
        stem: of the network, ``cifar`` or ``imagenet``.
    """

    lr: float
    lr_step: int
    lr_gamma: float
    epochs: int
    stem: str = "cifar"


def recipe(cell: Cell) -> Recipe:
    """The paper's recipe for a cell, carried over to the nearest one it ran where it did not run this one.

    Data sets that the paper does not have follow CIFAR-10's rules, digits with a schedule of its own.
    """
    if cell.data == "imagenet32":
        lr, lr_step = _imagenet32(cell)
        return Recipe(lr, lr_step, lr_gamma=0.1, epochs=70)
    if cell.data == "digits":
        return Recipe(_lr(cell), lr_step=4, lr_gamma=0.2, epochs=10)
    return Recipe(
        _lr(cell), lr_step=30, lr_gamma=0.2, epochs=100, stem="imagenet" if cell.data == "imagenette" else "cifar"
    )


def _lr(cell: Cell) -> float:
    """The learning rate on all data sets but ImageNet32 (App. A.3)."""
    in_paper_elsewhere = cell.data in ("cifar100", "fashion_mnist", "imagenette")
    activity = cell.perturb.startswith("activity")
    if cell.guess in RANDOM_GUESSES:
        return 0.01 if activity and cell.target == "global" and not in_paper_elsewhere else 0.005
    if cell.guess in ("ntk", "fixed_ntk"):
        if cell.data == "fashion_mnist":
            return 0.01 if activity else 0.05
        return 0.01 if cell.blocks == 16 and cell.data != "imagenette" else 0.05
    if cell.guess == "local" and cell.aux == "linear" and cell.blocks == 16 and activity and not in_paper_elsewhere:
        return 0.005
    return 0.05


def _imagenet32(cell: Cell) -> tuple[float, int]:
    """The learning rate and the epochs between its decays on ImageNet32 (App. A.3)."""
    activity = cell.perturb.startswith("activity")
    if cell.guess == "exact":
        return 0.05, 20
    if cell.guess in RANDOM_GUESSES:
        return (0.001 if activity else 0.005), 30
    if cell.guess in ("ntk", "fixed_ntk"):
        if cell.blocks == 16:
            return (0.01 if cell.aux == "cnn" else 0.005), 30
        return (0.001 if cell.aux == "cnn" or activity else 0.005), 30
    if cell.blocks == 16:
        return (0.01, 30) if activity else (0.1, 20)
    if cell.aux == "mlp":
        return (0.01, 30) if activity else (0.1, 20)
    return (0.01 if cell.aux == "linear" else 0.05), (20 if activity else 30)


def nearest(cell: Cell, *, random: bool) -> Cell:
    """The cell whose training the paper's carries over to one with components that the paper does not have.

    Digits, which come with every installation, count as the paper's.

    Args:
        cell: any cell.
        random: whether its guess is random, which decides on the paper's guess in place of another.
    """
    return replace(
        cell,
        data=cell.data if cell.data in _known("data") | {"digits"} else "cifar10",
        network=Cell.network,
        blocks=cell.blocks if cell.blocks in MODELS else 8,
        target=cell.target if cell.target in _known("target") else "global",
        guess=cell.guess if cell.guess in _known("guess") else "gaussian" if random else "local",
        aux=cell.aux if cell.aux in _known("aux") else "cnn",
        perturb=cell.perturb if cell.perturb in _known("perturb") else "weight",
    )


@cache
def _known(part: str) -> frozenset[str]:
    """All values of a part of the paper's cells, the empty one included where there is one."""
    return frozenset(getattr(row.cell, part) for row in published())
