"""What the paper published: each number of Tables 2 to 12 with the cell and the recipe that it belongs to.

``tables.csv`` has a row for each published accuracy. A sweep plans the cells of a table from it and a report compares
with it; neither pandas nor a plotting library is needed here. A few more cells belong to a table without being printed.
"""

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from operator import attrgetter
from pathlib import Path

from fglight.cell import Cell, cell_of

TABLES = tuple(range(2, 13))
"""Numbers of the paper's tables of accuracies (Table 1 compares costs and has none)."""

BATCH_SIZE, MOMENTUM, WEIGHT_DECAY = 128, 0.9, 5e-4
"""What every cell of the paper shares (Sec. 4.1)."""


@dataclass(frozen=True)
class Row:
    """One cell of a table, and how it was trained.

    Attributes:
        table: number of the table.
        cell: what was trained.
        mean: test accuracy after the last epoch, in percent; None for a cell whose accuracy is not printed.
        std: its standard deviation over ``seeds`` runs; None where the paper gives none.
        lr: initial learning rate, multiplied by ``lr_gamma`` every ``lr_step`` epochs.
        lr_step: see ``lr``.
        lr_gamma: see ``lr``.
        epochs: number of epochs.
        seeds: number of runs: 4 where a deviation is given, else 1; of a cell not printed, as of the others beside it.
    """

    table: int
    cell: Cell
    mean: float | None
    std: float | None
    lr: float
    lr_step: int
    lr_gamma: float
    epochs: int
    seeds: int


@cache
def published() -> tuple[Row, ...]:
    """The 462 rows of ``tables.csv``, in the order of the tables. No cell occurs twice."""
    with Path(__file__).with_name("tables.csv").open(encoding="utf-8", newline="") as lines:
        return tuple(map(_row, csv.DictReader(lines)))


@cache
def unprinted() -> tuple[Row, ...]:
    """The cells that the paper speaks of beside a table, without printing them.

    Random guesses, of Table 3's caption; Figures 2 and 3 show some of them. Recipes: App. A.3, which has those of
    ImageNet32 for 16 blocks. Local learning with fixed auxiliary networks, beside Table 11 (App. B.2): a gradient's
    projection on itself is that gradient, whatever the perturbation. Recipe: that of fixed NTK guesses.
    """
    random = tuple(
        Row(3, Cell(data, 8, 1.0, "global", guess, "", perturb), None, None, lr, 30, gamma, epochs, seeds)
        for data, gamma, epochs, seeds, activity, weight in (
            ("cifar10", 0.2, 100, 4, 0.01, 0.005),
            ("imagenet32", 0.1, 70, 1, 0.001, 0.005),
        )
        for guess in ("gaussian", "rademacher")
        for perturb, lr in (("activity", activity), ("weight", weight))
    )
    fixed = tuple(
        Row(11, Cell("cifar10", blocks, 1.0, "local", "fixed_ntk", aux, "weight"), None, None, lr, 30, 0.2, 100, 1)
        for blocks, lr in ((8, 0.05), (16, 0.01))
        for aux in ("cnn", "mlp", "linear")
    )
    return random + fixed


@cache
def rows() -> tuple[Row, ...]:
    """All cells of the tables, printed or not, in the order of the tables."""
    return tuple(sorted(published() + unprinted(), key=attrgetter("table")))


@cache
def rows_by_cell() -> Mapping[Cell, Row]:
    """``rows()`` by their cells, in the same order. No cell occurs twice."""
    return {row.cell: row for row in rows()}


def _row(line: Mapping[str, str]) -> Row:
    return Row(
        table=int(line["table"]),
        cell=cell_of(line),
        mean=float(line["mean"]),
        std=float(line["std"]) if line["std"] else None,
        lr=float(line["lr"]),
        lr_step=int(line["lr_step"]),
        lr_gamma=float(line["lr_gamma"]),
        epochs=int(line["epochs"]),
        seeds=int(line["seeds"]),
    )
