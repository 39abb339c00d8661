"""A claim of the paper as comparisons of what runs measure."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import product
from typing import Any, Literal

from fglight.cell import Cell
from fglight.log_names import ACCURACY
from fglight.paper import rows_by_cell

Parts = Mapping[str, Any]
"""Parts of a cell; a tuple stands for all its values."""


@dataclass(frozen=True)
class Quantity:
    """A number that each run of a cell has.

    Attributes:
        cell: the cell.
        metric: the name that it is logged under; accuracies count in points.
        period: the part of training that it is a mean over, as fractions; None for its last value.
        probe: the auxiliary network that only logs, where there is one; empty otherwise.
    """

    cell: Cell
    metric: str = ACCURACY
    period: tuple[float, float] | None = None
    probe: str = ""

    def __str__(self) -> str:
        """Its cell, and what it is unless an accuracy."""
        if self.metric == ACCURACY:
            return self.cell.in_words
        period = "" if self.period is None else " from {:.0%} to {:.0%} of training".format(*self.period)
        return f"{self.cell.in_words}, {self.metric}{period}"


@dataclass(frozen=True)
class Comparison:
    """What is compared is the sum of ``plus`` less the sum of ``minus``."""

    plus: tuple[Quantity, ...]
    minus: tuple[Quantity, ...] = ()

    @property
    def quantities(self) -> tuple[Quantity, ...]:
        """All of them."""
        return self.plus + self.minus

    @property
    def where(self) -> tuple[str, int, float]:
        """The data set; the number of blocks, and the width, where all quantities have the same, else 0 and 1."""
        first, *_ = cells = [quantity.cell for quantity in self.quantities]
        blocks, widths = ({getattr(cell, part) for cell in cells} for part in ("blocks", "width"))
        return first.data, first.blocks if len(blocks) == 1 else 0, first.width if len(widths) == 1 else 1.0

    @property
    def where_in_words(self) -> str:
        """``where`` for people: ``cifar10, 8 blocks``."""
        data, blocks, width = self.where
        return ", ".join(
            filter(None, (data, f"{blocks} blocks" if blocks else "", f"width {width:g}" if width != 1 else ""))
        )


@dataclass(frozen=True)
class Claim:
    """Each comparison comes out between two bounds.

    Attributes:
        text: the claim in one sentence.
        source: where the paper makes it.
        comparisons: what it says something of.
        least: a comparison must come out above; negative where the worse may lead by as much.
        most: a comparison must come out below.
        of: whether the paper says so of all comparisons, of most (more than half), or of some (at least one).
        reading: how the sentence was turned into comparisons, where that is a choice.
    """

    text: str
    source: str
    comparisons: tuple[Comparison, ...]
    least: float = 0
    most: float = float("inf")
    of: Literal["all", "most", "some"] = "all"
    reading: str = ""

    @property
    def sized(self) -> bool:
        """Whether it is of a size, which runs that are scaled down say nothing of."""
        return (self.least, self.most) != (0, float("inf"))


def leads(better: Parts, worse: Parts) -> tuple[Comparison, ...]:
    """The accuracy of each of the paper's cells that match ``better``, less that of the same cell with ``worse``."""
    return tuple(Comparison((Quantity(cell),), (Quantity(other),)) for cell, other in _pairs(better, worse))


def leads_more(better: Parts, worse: Parts, *others: Parts) -> tuple[Comparison, ...]:
    """The leads of ``better`` over ``worse`` with each of ``others`` put into both, less those without."""
    cells = rows_by_cell()
    found = []
    for cell, below in _pairs(better, worse):
        for change in (change for other in others for change in _changes(other)):
            other, other_below = replace(cell, **change), replace(below, **change)
            if {other, other_below} <= cells.keys():
                plus, minus = (other, below), (other_below, cell)
                found.append(Comparison(tuple(map(Quantity, plus)), tuple(map(Quantity, minus))))
    return tuple(found)


def _pairs(better: Parts, worse: Parts) -> Iterator[tuple[Cell, Cell]]:
    cells = rows_by_cell()
    for cell in cells:
        if all(getattr(cell, part) in _each(value) for part, value in better.items()):
            for change in _changes(worse):
                other = replace(cell, **change)
                if other in cells:
                    yield cell, other


def _changes(parts: Parts) -> list[Parts]:
    return [dict(zip(parts, values)) for values in product(*map(_each, parts.values()))]


def _each(value: object) -> tuple[Any, ...]:
    return value if isinstance(value, tuple) else (value,)
