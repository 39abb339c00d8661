"""What each run was trained on and how, and means over the seeds of runs that are alike in this."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cache, cached_property
from math import isclose
from statistics import fmean, stdev
from typing import Any

from fglight.cell import Cell
from fglight.paper import Row, rows, rows_by_cell
from fglight.paper.recipes import nearest, recipe
from fglight.report.intervals import Estimate
from fglight.runs.collect import Problem, Run
from fglight.runs.record import RECIPE
from fglight.runs.settings import OF_COST, in_short, within
from fglight.words import counted

Scale = tuple[tuple[str, str], ...]
"""What a run was trained on and how, its cell aside, as sorted (name, value); empty where it is as in the paper."""

FULL: Scale = ()

_NAMES = {setting: name for name, setting in RECIPE.items()}
_TOLD = ("trainer.max_epochs", "scheduler.step_size", *OF_COST)
"""Settings that a scale tells in other words, or not at all."""


@dataclass(frozen=True)
class Score:
    """A number of each of several runs of different seeds, which are trained alike."""

    runs: tuple[Run, ...]
    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Over the seeds."""
        return fmean(self.values)

    @property
    def std(self) -> float | None:
        """The standard deviation over seeds (n - 1); None for one seed."""
        return stdev(self.values) if len(self.values) > 1 else None

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds of the runs."""
        return tuple(run.seed for run in self.runs)

    @cached_property
    def by_seed(self) -> Mapping[int, float]:
        """The number of each seed."""
        return dict(zip(self.seeds, self.values))

    @property
    def chance(self) -> float | None:
        """The accuracy of guessing among equally frequent classes, in percent; None where their number is not known."""
        classes = self.runs[0].classes
        return 100 / classes if classes else None

    @property
    def above_chance(self) -> bool:
        """Whether the 95 % interval of an accuracy lies above chance."""
        return self.chance is not None and Estimate.of(self.values).interval()[0] > self.chance


def accuracies(runs: Iterable[Run]) -> Score:
    """The test accuracies of runs, in percent."""
    ordered = tuple(sorted(runs, key=lambda run: run.seed))
    return Score(ordered, tuple(100 * run.score for run in ordered))


@dataclass(frozen=True)
class Scores:
    """Every finished run by what it is comparable with.

    Attributes:
        by_scale: test accuracies in percent by scale and cell; ``FULL`` has the paper's own cells, the others those
            that are like one of them but for the width, and for data that the paper does not have.
        all_runs: all runs of each scale and cell, repeated ones too.
        others: runs of cells that no table has.
        repeated: runs not counted, for another one has the same scale, cell and seed.
    """

    by_scale: Mapping[Scale, Mapping[Cell, Score]]
    all_runs: Mapping[tuple[Scale, Cell], list[Run]]
    others: tuple[Run, ...]
    repeated: tuple[Problem, ...]

    @property
    def full(self) -> Mapping[Cell, Score]:
        """Those of runs at the paper's own setting."""
        return self.by_scale.get(FULL, {})

    @property
    def sizes(self) -> list[tuple[Scale, float]]:
        """Each scale with each width that stands for the paper's width of 1 there, the paper's own first."""
        return [
            (scale, width)
            for scale, cells in self.by_scale.items()
            for width in ([1.0] if scale == FULL else sorted({cell.width for cell in cells}))
        ]


def score(runs: Iterable[Run]) -> Scores:
    """Sort runs by scale and cell, and average over seeds."""
    found: dict[Scale, dict[Cell, list[Run]]] = {FULL: {}}
    others = []
    for run in sorted(runs, key=lambda run: (run.seed, run.path)):
        if run.metric == "accuracy" and like(run.cell):
            found.setdefault(scale_of(run), {}).setdefault(run.cell, []).append(run)
        else:
            others.append(run)
    once = {
        scale: {cell: accuracies({run.seed: run for run in reversed(same)}.values()) for cell, same in cells.items()}
        for scale, cells in sorted(found.items(), key=lambda item: (item[0] != FULL, -sum(map(len, item[1].values()))))
    }
    repeated = tuple(
        Problem(run.path, f"repeats cell and seed of another run ({run.cell.in_words}, seed {run.seed}); not counted")
        for scale, cells in found.items()
        for cell, same in cells.items()
        for run in same
        if run not in once[scale][cell].runs
    )
    every = {(scale, cell): same for scale, cells in found.items() for cell, same in cells.items()}
    return Scores(once, every, tuple(others), repeated)


def like(cell: Cell) -> tuple[Row, ...]:
    """The paper's cells that a cell is like: of the same data, or of any where the paper does not have its data.

    Their width may be another.
    """
    alike = _by_architecture().get(_architecture(cell), ())
    return tuple(row for row in alike if cell.data not in _paper_data() or row.cell.data == cell.data)


def trained_as(cell: Cell, scale: Scale, width: float) -> Cell | None:
    """What was trained in place of a cell of the paper at a scale.

    Args:
        cell: one of the paper's.
        scale: what it was trained on, and how.
        width: what stands for the paper's width of 1.

    Returns:
        The cell; None where the scale's data are other ones that the paper has, and which stand for themselves alone.
    """
    if scale == FULL:
        return cell
    data = dict(scale)["data"]
    if data in _paper_data() and data != cell.data:
        return None
    return replace(cell, data=data, width=width if cell.width == 1 else cell.width)


def scale_of(run: Run) -> Scale:
    """What a run was trained on and how; ``FULL`` where nothing sets it apart from how the paper trained its cell."""
    as_in_paper = run.cell in rows_by_cell() and not run.differences.keys() - set(OF_COST) and not _stopped(run)
    return FULL if as_in_paper else described(run)


def described(run: Run, aside: Iterable[str] = ()) -> Scale:
    """The data set, the epochs and all else in which a run's training departs from the paper's of its cell.

    Args:
        run: a finished run.
        aside: settings to leave out.
    """
    apart = {name: value for name, value in run.differences.items() if name not in aside}
    told = {
        _NAMES.get(name, name): f"{value:g}" if isinstance(value, float) else str(value)
        for name, value in in_short(apart).items()
        if not within(name, _TOLD)
    }
    told |= {"data": run.cell.data, "epochs": f"{run.recipe['epochs']:g}"}
    paper = recipe(nearest(run.cell, random=False))
    shrunk = max(1, round(paper.lr_step * run.recipe["epochs"] / paper.epochs))
    if not isclose(run.recipe.get("lr_step", shrunk), shrunk):
        told["lr_step"] = f"{run.recipe['lr_step']:g}"
    if _stopped(run):
        told["stopped after epoch"] = str(run.epoch + 1)
    return tuple(sorted(told.items()))


def _stopped(run: Run) -> bool:
    return run.epoch + 1 < run.recipe["epochs"]


def scale_in_words(scale: Scale) -> str:
    """Write a scale for people, the data first: ``digits, 3 epochs``; the paper's own is ``full scale``."""
    words: dict[str, Callable[[Any], str]] = {"data": str, "epochs": lambda value: counted(value, "epoch")}
    ordered = sorted(scale, key=lambda item: (item[0] != "data", item[0] != "epochs", item))
    return ", ".join(words[key](value) if key in words else f"{key} {value}" for key, value in ordered) or "full scale"


def with_width(scale: Scale, width: float) -> Scale:
    """A scale that tells the width of the networks, too, where it is not 1."""
    return scale if width == 1 else tuple(sorted((*scale, ("width", f"{width:g}"))))


def recipe_in_words(run: Run) -> str:
    """Write the whole recipe and the differences of a run that is like none of the paper's."""
    differing = {name: value for name, value in in_short(run.differences).items() if name not in _NAMES}
    names = {**run.recipe, **differing, "seed": run.seed}
    return ", ".join(
        f"{name} {value:g}" if isinstance(value, float) else f"{name} {value}" for name, value in names.items()
    )


def accuracy(mean: float, std: float | None) -> str:
    """Write an accuracy in percent with its deviation, as the paper does: ``91.8 ± 0.3``."""
    return f"{mean:.1f}" if std is None else f"{mean:.1f} ± {std:.1f}"


def by_seed(score: Score) -> str:
    """The numbers of single runs, as a file has them: ``0:94.35185 1:94.62963``."""
    return " ".join(f"{seed}:{value:.5f}" for seed, value in score.by_seed.items())


def apart(difference: Estimate | None) -> dict[str, float | str | None]:
    """A difference and its 95 % interval, as columns of a file."""
    low, high = difference.interval() if difference and not difference.lack else (None, None)
    mean, text = (difference.mean, difference.text()) if difference else (None, None)
    return {"difference": mean, "low": low, "high": high, "in_words": text}


@cache
def _by_architecture() -> Mapping[tuple[object, ...], tuple[Row, ...]]:
    """The paper's cells by what is left of them without data set and width."""
    found: dict[tuple[object, ...], tuple[Row, ...]] = {}
    for row in rows():
        found[_architecture(row.cell)] = (*found.get(_architecture(row.cell), ()), row)
    return found


@cache
def _paper_data() -> frozenset[str]:
    return frozenset(row.cell.data for row in rows())


def _architecture(cell: Cell) -> tuple[object, ...]:
    return cell.network, cell.blocks, cell.target, cell.guess, cell.aux, cell.perturb
