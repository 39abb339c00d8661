"""What a study is made of."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from fglight.cell import Cell

RATES = ("0.8", "0.2", "0.05", "0.0125")
"""The learning rates that every estimator of a study chooses from: one fourth each of the one before."""

QUANTITIES = {
    "derivatives": "directional derivatives a step",
    "forwards": "FLOPs of a step, in forward passes",
    "memory": "peak memory of a step (MB)",
    "seconds": "seconds a step, tests and measures included",
}
"""What a step of an estimator may be judged by, in words."""

_PARTS = {"target": "global", "guess": "", "aux": "", "perturb": ""}


@dataclass(frozen=True)
class Row:
    """One estimator of a study.

    Attributes:
        label: its name for people.
        overrides: what makes it, as on the command line: ``guess=local aux=cnn perturb=weight``. Name no component that
            it makes no use of, and a target that is not the global one.
        line: name of the line that it is a point of, in the study's figure; empty for a point by itself.
    """

    label: str
    overrides: str
    line: str = ""

    @cached_property
    def chosen(self) -> dict[str, str]:
        """The overrides by their names."""
        return dict(override.split("=", 1) for override in self.overrides.split())

    @property
    def settings(self) -> dict[str, str]:
        """Those that choose no component."""
        return {name: value for name, value in self.chosen.items() if name not in _PARTS}

    @property
    def auxiliaries(self) -> dict[str, str]:
        """Those of its auxiliary networks; empty where it has none."""
        return {name: value for name, value in self.chosen.items() if name.partition(".")[0] == "aux"}

    @property
    def is_local_learning(self) -> bool:
        """Whether it follows local losses alone, without any feedback."""
        return (self.chosen.get("target"), self.chosen.get("guess")) == ("local", "exact")

    def cell(self, data: str) -> Cell:
        """What it trains on a data set, the network in 8 blocks."""
        parts = {part: self.chosen.get(part, default) for part, default in _PARTS.items()}
        return Cell(data=data, blocks=8, width=1.0, **parts)


CONTROLS = (
    Row("Backpropagation", "guess=exact"),
    Row("Frozen blocks", "guess=frozen"),
    Row("Local learning, CNN", "target=local guess=exact aux=cnn"),
)
"""What every estimator is to be seen beside."""


@dataclass(frozen=True)
class Study:
    """Estimators that are trained alike, each with the learning rate that is best for it, and compared.

    Attributes:
        name: on the command line.
        title: for people.
        question: what it is to answer.
        rows: the estimators.
        data: name of the data set.
        seeds: how many runs each has.
        rates: the learning rates to choose from.
        over: what accuracy is drawn over, of ``QUANTITIES``; empty for no figure.
    """

    name: str
    title: str
    question: str
    rows: tuple[Row, ...]
    data: str = "digits"
    seeds: int = 3
    rates: tuple[str, ...] = RATES
    over: tuple[str, ...] = ()

    def local_learning(self, row: Row) -> Row | None:
        """Local learning with exactly the auxiliary networks that a row has; None where there is none."""
        alike = (other for other in self.rows if other.is_local_learning and other.auxiliaries == row.auxiliaries)
        return next(alike, None) if row.auxiliaries and not row.is_local_learning else None

    @cached_property
    def frozen(self) -> Row | None:
        """The row of blocks that are not trained; None where there is none."""
        return next((row for row in self.rows if row.chosen["guess"] == "frozen"), None)


def by_name(*studies: Study) -> Mapping[str, Study]:
    """Studies by their names."""
    return {study.name: study for study in studies}
