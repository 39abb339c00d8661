"""What a study is made of."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import TypeVar

from omegaconf import OmegaConf
from yaml import YAMLError

from fglight.cell import Cell
from fglight.errors import ConfigError, one_line
from fglight.paper.grids import HOLDOUT

RATES = ("0.8", "0.2", "0.05", "0.0125")
"""The learning rates that every estimator of a study chooses from: one fourth each of the one before."""

SEARCH_SEEDS = (0, 1)
"""The seeds that choose a rate; those that tell begin behind them."""

Rate = TypeVar("Rate")

QUANTITIES = {
    "derivatives": "directional derivatives a step",
    "forward_mode": "as a forward gradient: FLOPs of a step, in forward passes",
    "forwards": "to study: FLOPs of a step, in forward passes",
    "memory": "to study: peak memory of a step (MB)",
    "seconds": "to study: seconds a step, with tests and measures",
}
"""What a step of an estimator may be judged by, in words; *to study* is with the engine that ran."""

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


@dataclass(frozen=True)
class Study:
    """Estimators that are trained alike, each with the learning rate that is best for it, and compared.

    Attributes:
        name: on the command line.
        title: for people.
        question: what it is to answer.
        rows: the estimators.
        data: name of the data set.
        seeds: how many runs each has that tell, from the first behind ``SEARCH_SEEDS`` on.
        rates: the learning rates to choose from.
        over: what accuracy is drawn over, of ``QUANTITIES``; empty for no figure.
        holdout: the fraction of the training images on which a rate is chosen.
        settings: what all runs have, unless the command line says otherwise.
    """

    name: str
    title: str
    question: str
    rows: tuple[Row, ...]
    data: str = "digits"
    seeds: int = 3
    rates: tuple[str, ...] = RATES
    over: tuple[str, ...] = ()
    holdout: str = HOLDOUT
    settings: Mapping[str, str] = field(default_factory=dict, hash=False)

    def local_learning(self, row: Row) -> Row | None:
        """Local learning with exactly the auxiliary networks that a row has; None where there is none."""
        alike = (other for other in self.rows if other.is_local_learning and other.auxiliaries == row.auxiliaries)
        return next(alike, None) if row.auxiliaries and not row.is_local_learning else None

    @cached_property
    def frozen(self) -> Row | None:
        """The row of blocks that are not trained; None where there is none."""
        return next((row for row in self.rows if row.chosen["guess"] == "frozen"), None)


def read_study(file: Path) -> Study:
    """The study of a YAML file, which is named after it.

    It has a ``title``, a ``question`` and ``rows``: by the names of estimators the overrides that make them, or by that
    of a line of the figure the estimators on it. The rest is as in ``Study``.

    Raises:
        ConfigError: it cannot be read, or says something else.
    """
    from fglight.config.rules import StudyFile  # pydantic takes a while
    from fglight.config.values import check

    try:
        said = OmegaConf.to_container(OmegaConf.load(file))
    except (OSError, ValueError, YAMLError) as error:
        raise ConfigError(f"{file} cannot be read: {one_line(error)}") from error
    if not isinstance(said, dict):
        raise ConfigError(f"{file} must have a title, a question and rows, got {said}")
    check(file.stem, StudyFile, said)
    rows: list[Row] = []
    for label, made in said.pop("rows").items():
        points = made if isinstance(made, dict) else {label: made}
        rows += (Row(name, overrides, label if points is made else "") for name, overrides in points.items())
    return Study(
        name=file.stem,
        rows=tuple(rows),
        rates=tuple(f"{rate:g}" for rate in said.pop("rates", ())) or RATES,
        over=tuple(said.pop("over", ())),
        holdout=str(said.pop("holdout", HOLDOUT)),
        settings={name: str(value) for name, value in said.pop("settings", {}).items()},
        **said,
    )


def best_rate(found: Mapping[Rate, Sequence[tuple[float, float]]]) -> Rate | None:
    """The rate of the highest mean accuracy on held-out images, and of the lowest loss where several have that.

    Args:
        found: accuracy and loss of each seed, by rate.

    Returns:
        The rate; None where there is none.
    """

    def quality(rate: Rate) -> tuple[float, float]:
        accuracies, losses = zip(*found[rate])
        return fmean(accuracies), -fmean(losses)

    return max(found, key=quality, default=None)
