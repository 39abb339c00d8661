"""The grids that the paper searched: learning rates (Sec. 4.1) and sizes of auxiliary networks (App. A.2)."""

from collections.abc import Iterator

from fglight.cell import Cell

HOLDOUT = "0.1"
"""Fraction of the training images that stands in for the test set; the paper only says "a subset" (Sec. 4.1)."""

LARGEST_SHARE = 0.1
"""What an auxiliary network may cost of its block's FLOPs (App. A.2)."""


def learning_rates(cell: Cell) -> tuple[str, ...]:
    """The grid of Sec. 4.1 for a cell's data set; CIFAR-10's where the paper gives none."""
    return ("0.1", "0.05", "0.01", "0.005", "0.0001") if cell.data == "imagenet32" else ("0.05", "0.01", "0.005")


def aux_sizes() -> Iterator[tuple[Cell, dict[str, str]]]:
    """The cells and settings of App. A.2: local learning on CIFAR-10 in 8 blocks, by depth and hidden width."""
    training = {
        "data.batch_size": "256",
        "data.holdout": HOLDOUT,
        "optim.lr": "0.1",
        "optim.lr_step": "30",
        "optim.lr_gamma": "0.2",
        "trainer.max_epochs": "90",
    }
    for aux, smallest, largest in (("mlp", 64, 4096), ("cnn", 4, 64)):
        cell = Cell("cifar10", 8, 1.0, "local", "exact", aux, "")
        for depth in range(1, 9):
            hidden = smallest
            while hidden <= largest:
                yield cell, {**training, "aux.depth": str(depth), "aux.hidden": str(hidden)}
                hidden *= 2
