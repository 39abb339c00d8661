"""A table's layout filled in: the paper's numbers, ours beside them and the difference between the two."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from string import ascii_lowercase

import pandas as pd

from fglight.paper import Row, rows_by_cell
from fglight.paper.layouts import Layout
from fglight.report.scores import FULL, Score, Scores, Setting, accuracy, setting_in_words

USUAL_STD = 0.6
"""The median of the published standard deviations, in points."""


@dataclass(frozen=True)
class Entry:
    """One cell of a table.

    Attributes:
        row: what the paper has.
        span: number of columns that it covers.
        ours: our score by the mark of its footnote; the mark is empty for a full-scale one, which is then the only one.
    """

    row: Row
    span: int
    ours: Mapping[str, Score]

    @property
    def full(self) -> Score | None:
        """Our score from runs at the paper's own setting, if there are any."""
        return self.ours.get("")

    @property
    def printed(self) -> bool:
        """Whether the paper prints its accuracy."""
        return self.row.mean is not None

    @property
    def paper(self) -> str:
        """The paper's accuracy, or that it is not printed."""
        return accuracy(self.row.mean, self.row.std) if self.printed else "not printed"

    @property
    def difference(self) -> float | None:
        """Ours minus the paper's, in points; None unless ours are full-scale runs and the paper's is printed."""
        return self.full.mean - self.row.mean if self.full and self.printed else None

    @property
    def status(self) -> str:
        """Return ``missing``, ``scaled``, or how full-scale runs compare: ``near``, ``above``, ``below`` or ``alone``.

        ``alone`` are those of a cell that the paper does not print. ``near`` is a difference of at most the two
        standard deviations together, of which one that is not known counts as ``USUAL_STD``.
        """
        if not self.full:
            return "scaled" if self.ours else "missing"
        if not self.printed:
            return "alone"
        if abs(self.difference) <= sum(USUAL_STD if std is None else std for std in (self.full.std, self.row.std)):
            return "near"
        return "above" if self.difference > 0 else "below"


@dataclass(frozen=True)
class Table:
    """A filled layout; ``notes`` says what the marks of scaled-down scores stand for."""

    layout: Layout
    rows: tuple[tuple[tuple[str, ...], tuple[Entry, ...]], ...]
    notes: Mapping[str, str]

    @property
    def entries(self) -> list[Entry]:
        """Every cell, row by row."""
        return [entry for _, entries in self.rows for entry in entries]


def fill(layout: Layout, scores: Scores) -> Table:
    """Put the paper's and our numbers into a layout."""
    marks: dict[Setting, str] = {FULL: ""}

    def mark(setting: Setting) -> str:
        return marks.setdefault(setting, _letter(len(marks) - 1))

    filled = tuple(
        (
            header.words,
            tuple(
                Entry(rows_by_cell()[cell], span, {mark(name): found for name, found in scores.shown(cell).items()})
                for cell, span in layout.cells(header)
            ),
        )
        for header in layout.rows
    )
    return Table(layout, filled, {letter: setting_in_words(name) for name, letter in marks.items() if letter})


def _letter(index: int) -> str:
    """a, b, … z, aa, ab, …"""
    more, last = divmod(index, 26)
    return (_letter(more - 1) if more else "") + ascii_lowercase[last]


def as_frame(tables: Iterable[Table]) -> pd.DataFrame:
    """A line for each cell and setting, the paper's number and ours; accuracies in percent."""
    lines = [
        {
            "table": table.layout.number,
            **vars(entry.row.cell),
            "paper_mean": entry.row.mean,
            "paper_std": entry.row.std,
            "paper_seeds": entry.row.seeds,
            "status": entry.status,
            "setting": table.notes.get(mark, "full scale") if score else None,
            "mean": score and round(score.mean, 4),
            "std": score and score.std and round(score.std, 4),
            "seeds": score and len(score.seeds),
            "difference": None if entry.difference is None else round(entry.difference, 4),
        }
        for table in tables
        for entry in table.entries
        for mark, score in (entry.ours or {"": None}).items()
    ]
    return pd.DataFrame(lines).astype({"seeds": "Int64", "table": "Int64"}) if lines else pd.DataFrame()
