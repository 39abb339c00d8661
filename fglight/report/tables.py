"""The paper's tables with our numbers, and tables of runs that are scaled down."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import pandas as pd

from fglight.cell import Cell
from fglight.paper import Row, rows_by_cell
from fglight.paper.layouts import Layout
from fglight.report.intervals import Estimate, Word, told
from fglight.report.results import (
    FULL,
    Results,
    Scale,
    Score,
    difference_columns,
    like,
    score_columns,
    with_deviation,
)

Status = Word | Literal["missing", "alone"]


@dataclass(frozen=True)
class Entry:
    """One cell of a table: what the paper has, the columns that it covers, and ours of runs at the paper's setting."""

    row: Row
    span: int
    full: Score | None

    @property
    def printed(self) -> bool:
        """Whether the paper prints its accuracy."""
        return self.row.mean is not None

    @property
    def paper(self) -> str:
        """The paper's accuracy, or that it is not printed."""
        return with_deviation(self.row.mean, self.row.std) if self.printed else "not printed"

    @cached_property
    def difference(self) -> Estimate | None:
        """Ours less the paper's, in points (Welch); None unless we have one and the paper's is printed."""
        if not self.full or not self.printed:
            return None
        ours, printed = Estimate.of(self.full.values), Estimate.printed(self.row.mean, self.row.std, self.row.seeds)
        of_seeds = tuple(value - self.row.mean for value in self.full.values)
        return replace(Estimate.apart([ours], [printed]), values=of_seeds)

    @property
    def status(self) -> Status:
        """How ours compares; ``missing`` where there is none, ``alone`` where the paper does not print its own."""
        if not self.full:
            return "missing"
        return told([self.difference])[0] if self.difference else "alone"


@dataclass(frozen=True)
class Table:
    """A filled layout."""

    layout: Layout
    rows: tuple[tuple[tuple[str, ...], tuple[Entry, ...]], ...]

    @property
    def entries(self) -> list[Entry]:
        """Every cell, row by row."""
        return [entry for _, entries in self.rows for entry in entries]

    @property
    def run(self) -> bool:
        """Whether there is a number of ours in it."""
        return any(entry.full for entry in self.entries)


def fill(layout: Layout, results: Results) -> Table:
    """Put the paper's and our numbers into a layout."""

    def entries(cells: Iterable[tuple[Cell, int]]) -> tuple[Entry, ...]:
        return tuple(Entry(rows_by_cell()[cell], span, results.full.get(cell)) for cell, span in cells)

    return Table(layout, tuple((header.words, entries(layout.cells(header))) for header in layout.rows))


@dataclass(frozen=True)
class Scaled:
    """Runs of the paper's cells at one scale that is not the paper's; no cell of them stands elsewhere."""

    scale: Scale
    scores: Mapping[Cell, Score]

    @cached_property
    def perturbations(self) -> list[str]:
        """Those that occur; empty for guesses without one."""
        return list(dict.fromkeys(cell.perturb for cell in self.scores))

    @cached_property
    def parts(self) -> pd.DataFrame:
        """What its cells are, the perturbation aside, in words: a column a part, a line a cell."""
        cells = dict.fromkeys(replace(cell, perturb="") for cell in self.scores)
        parts = [(cell.guess, cell.aux, cell.target, str(cell.blocks), f"{cell.width:g}") for cell in cells]
        return pd.DataFrame(parts, cells, columns=["guess", "auxiliary", "target", "blocks", "width"], dtype=object)

    @property
    def columns(self) -> list[str]:
        """The parts in which they differ."""
        return [name for name in self.parts if name == "guess" or self.parts[name].nunique() > 1]

    @property
    def shared(self) -> str:
        """What they all have, in words."""
        shared = self.parts.drop(columns=self.columns).iloc[0]
        return ", ".join(f"{name} {word}" for name, word in shared.items() if word)

    @property
    def lines(self) -> list[tuple[list[str], list[Score | None]]]:
        """For each cell, its perturbation aside, the words of ``columns`` and the scores of ``perturbations``."""
        words = self.parts[self.columns].to_numpy().tolist()
        scores = (
            [self.scores.get(replace(cell, perturb=name)) for name in self.perturbations] for cell in self.parts.index
        )
        return list(zip(words, scores))

    @property
    def seeds(self) -> list[int]:
        """All seeds that occur."""
        return sorted({seed for score in self.scores.values() for seed in score.seeds})

    @property
    def chance(self) -> float | None:
        """The accuracy of guessing, in percent; None where it is not known."""
        return next((score.chance for score in self.scores.values()), None)


def scaled(results: Results, tables: Iterable[int]) -> tuple[Scaled, ...]:
    """The runs that are scaled down, of cells like those of some tables, by scale."""
    numbers = set(tables)
    order = list(rows_by_cell())

    def place(cell: Cell) -> tuple[float, int]:
        return cell.width, order.index(like(cell)[0].cell)

    found = []
    for scale, cells in results.by_scale.items():
        own = [cell for cell in sorted(cells, key=place) if numbers & {row.table for row in like(cell)}]
        if scale != FULL and own:
            found.append(Scaled(scale, {cell: cells[cell] for cell in own}))
    return tuple(found)


def as_frame(tables: Iterable[Table], others: Iterable[Scaled]) -> pd.DataFrame:
    """A line for each cell of the tables, with the paper's number and ours, and for each one scaled down.

    Accuracies are in percent, those of single runs by seed; differences are in points, with their 95 % intervals.
    """
    lines = [
        {
            "table": table.layout.number,
            **vars(entry.row.cell),
            "paper_mean": entry.row.mean,
            "paper_std": entry.row.std,
            "paper_seeds": entry.row.seeds,
            "status": entry.status,
            "scale": str(FULL) if entry.full else None,
            **score_columns(entry.full),
            **difference_columns(entry.difference),
        }
        for table in tables
        for entry in table.entries
    ]
    lines += [
        {**vars(cell), "status": "scaled", "scale": str(scaled.scale), **score_columns(score)}
        for scaled in others
        for cell, score in scaled.scores.items()
    ]
    frame = pd.DataFrame(lines)
    return frame.astype(dict.fromkeys(("seeds", "table", "paper_seeds"), "Int64"))
