"""What the paper published: each number of Tables 2 to 12 with the cell that it belongs to.

``tables.csv`` has a row for each published accuracy, and its recipe, of which ``recipes`` has the rules. A sweep plans
the cells of a table from it and a report compares with it; neither pandas nor a plotting library is needed here. A few
more cells belong to a table without being printed.
"""

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from itertools import product
from operator import attrgetter
from pathlib import Path

from fglight.cell import Cell, cell_of

TABLES = tuple(range(2, 13))
"""Numbers of the paper's tables of accuracies (Table 1 compares costs and has none)."""

BATCH_SIZE, MOMENTUM, WEIGHT_DECAY = 128, 0.9, 5e-4
"""What every cell of the paper shares (Sec. 4.1)."""


@dataclass(frozen=True)
class Row:
    """One cell of a table.

    Attributes:
        table: number of the table.
        cell: what was trained.
        mean: test accuracy after the last epoch, in percent; None for a cell whose accuracy is not printed.
        std: its standard deviation over ``seeds`` runs; None where the paper gives none.
        seeds: number of runs: 4 where a deviation is given, else 1; of a cell not printed, as of the others beside it.
    """

    table: int
    cell: Cell
    mean: float | None
    std: float | None
    seeds: int


@cache
def published() -> tuple[Row, ...]:
    """The 462 rows of ``tables.csv``, in the order of the tables. No cell occurs twice."""
    with Path(__file__).with_name("tables.csv").open(encoding="utf-8", newline="") as lines:
        return tuple(map(_row, csv.DictReader(lines)))


@cache
def unprinted() -> tuple[Row, ...]:
    """The cells that the paper speaks of beside a table, without printing them.

    Random guesses, of Table 3's caption; Figures 2 and 3 show some of them. Local learning with fixed auxiliary
    networks, beside Table 11 (App. B.2): a gradient's projection on itself is that gradient, whatever the perturbation.
    """
    random = tuple(
        Row(3, Cell(data, 8, 1.0, "global", guess, "", perturb), None, None, seeds)
        for data, seeds in (("cifar10", 4), ("imagenet32", 1))
        for guess, perturb in product(("gaussian", "rademacher"), ("activity", "weight"))
    )
    fixed = tuple(
        Row(11, Cell("cifar10", blocks, 1.0, "local", "fixed_ntk", aux, "weight"), None, None, 1)
        for blocks, aux in product((8, 16), ("cnn", "mlp", "linear"))
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
        seeds=int(line["seeds"]),
    )
