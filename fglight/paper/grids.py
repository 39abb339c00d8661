"""The grids that the paper searched: schedules (Sec. 4.1, App. A.3) and sizes of auxiliary networks (App. A.2)."""

from collections.abc import Iterator, Sequence
from itertools import product

from fglight.cell import Cell
from fglight.paper.recipes import recipe

HOLDOUT = "0.1"
"""Fraction of the training images that stands in for the test set; the paper only says "a subset" (Sec. 4.1)."""

LARGEST_SHARE = 0.1
"""What an auxiliary network may cost of its block's FLOPs (App. A.2)."""

LR_AXES = ("optim.lr", "scheduler.step_size")
"""What a point of ``schedules`` sets."""

SIZE_AXES = ("aux.depth", "aux.hidden")
"""What differs among the points of ``aux_sizes``."""


def schedules(cell: Cell, rates: Sequence[str] = ()) -> Iterator[dict[str, str]]:
    """The learning rates of Sec. 4.1, and epochs between decays, for a cell's data set.

    On ImageNet32 the rate 0.001 is not in Sec. 4.1's grid, but App. A.3 names it and six published cells use it. Steps
    of 20 and of 30 epochs are App. A.3's. Data sets without a grid have CIFAR-10's rates, and the step of their recipe.

    Args:
        cell: what is trained.
        rates: other learning rates; the step is then the recipe's.
    """
    steps: tuple[str, ...] = (str(recipe(cell).lr_step),)
    if not rates and cell.data == "imagenet32":
        rates, steps = ("0.1", "0.05", "0.01", "0.005", "0.001", "0.0001"), ("20", "30")
    yield from (dict(zip(LR_AXES, point)) for point in product(rates or ("0.05", "0.01", "0.005"), steps))


def aux_sizes() -> Iterator[tuple[Cell, dict[str, str]]]:
    """The cells and settings of App. A.2: local learning on CIFAR-10 in 8 blocks, by depth and hidden width."""
    training = {
        "data.batch_size": "256",
        "data.holdout": HOLDOUT,
        "optim.lr": "0.1",
        "scheduler.step_size": "30",
        "scheduler.gamma": "0.2",
        "trainer.max_epochs": "90",
    }
    for aux, smallest, largest in (("mlp", 64, 4096), ("cnn", 4, 64)):
        cell = Cell("cifar10", 8, 1.0, "local", "exact", aux, "")
        for depth in range(1, 9):
            hidden = smallest
            while hidden <= largest:
                yield cell, {**training, **dict(zip(SIZE_AXES, (str(depth), str(hidden))))}
                hidden *= 2
