"""What each run was trained on and how, and the numbers of runs that are alike in this, over their seeds."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from math import isclose
from statistics import fmean, stdev

from fglight.cell import Cell
from fglight.log_names import ACCURACY
from fglight.paper import Row, rows, rows_by_cell
from fglight.paper.claims import Quantity
from fglight.paper.recipes import nearest, recipe
from fglight.report.intervals import Estimate
from fglight.runs.collect import Run
from fglight.runs.logged import Problem
from fglight.runs.record import RECIPE
from fglight.runs.settings import OF_COST, in_short, within
from fglight.text import counted

_NAMES = {setting: name for name, setting in RECIPE.items()}
_TOLD = ("trainer.max_epochs", "scheduler.step_size", *OF_COST)
"""Settings that a scale tells in other words, or not at all."""


@dataclass(frozen=True, order=True)
class Scale:
    """How far runs are from the paper's: what they were trained on and how, their cells aside.

    Attributes:
        told: names and values, sorted; empty for runs at the paper's own setting.
    """

    told: tuple[tuple[str, str], ...] = ()

    @classmethod
    def of(cls, run: Run, aside: Iterable[str] = ()) -> "Scale":
        """The data set, the epochs and all else in which a run's training departs from the paper's of its cell.

        Args:
            run: a finished run.
            aside: settings to leave out.
        """
        apart = {name: value for name, value in run.differences.items() if name not in aside}
        told = {
            _NAMES.get(name, name): _text(value) for name, value in in_short(apart).items() if not within(name, _TOLD)
        }
        paper = recipe(nearest(run.cell, random=False))
        shrunk = max(1, round(paper.lr_step * run.recipe["epochs"] / paper.epochs))
        if not isclose(run.recipe.get("lr_step", shrunk), shrunk):
            told["lr_step"] = _text(run.recipe["lr_step"])
        if _stopped(run):
            told["stopped after epoch"] = str(run.epoch + 1)
        return cls().with_settings(**told, data=run.cell.data, epochs=_text(run.recipe["epochs"]))

    def with_settings(self, **told: str) -> "Scale":
        """The same, which tells more."""
        return Scale(tuple(sorted({**dict(self.told), **told}.items())))

    def with_width(self, width: float) -> "Scale":
        """The same, which tells the width of the networks, too, where it is not 1."""
        return self if width == 1 else self.with_settings(width=_text(width))

    @property
    def distance(self) -> tuple[int, float, "Scale"]:
        """How far it is from the paper's: by what differs first, then by how much shorter it trains."""
        return len(self.told), -float(dict(self.told).get("epochs", "inf")), self

    def __str__(self) -> str:
        """For people, the data first: ``digits, 3 epochs``; the paper's own is ``full scale``."""
        if self == FULL:
            return "full scale"
        others = dict(self.told)
        data, epochs = others.pop("data"), others.pop("epochs")
        return ", ".join([data, counted(epochs, "epoch"), *(f"{name} {value}" for name, value in others.items())])


FULL = Scale()


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

    def __str__(self) -> str:
        """An accuracy in percent with its deviation, as the paper has it."""
        return with_deviation(self.mean, self.std)


def accuracies(runs: Iterable[Run]) -> Score:
    """The test accuracies of runs, in percent."""
    ordered = tuple(sorted(runs, key=lambda run: run.seed))
    return Score(ordered, tuple(100 * run.score for run in ordered))


def over_common_seeds(plus: Sequence[Score | None], minus: Sequence[Score | None]) -> Estimate | None:
    """The sum of some scores less that of others, over the seeds that all have; None where there is no such seed."""
    scores = [score.by_seed if score else {} for score in (*plus, *minus)]
    seeds = sorted(set.intersection(*map(set, scores)))
    values = [
        sum(one[seed] for one in scores[: len(plus)]) - sum(one[seed] for one in scores[len(plus) :]) for seed in seeds
    ]
    return Estimate.of(values) if values else None


@dataclass(frozen=True)
class Results:
    """Every finished run by what it is comparable with.

    Attributes:
        runs: those of the paper's cells, and of cells that are like one of them but for the width, and for data that
            the paper does not have; by scale and cell, repeated ones too. ``FULL`` has the paper's own cells alone.
        others: runs of cells that no table has.
        repeated: runs not counted, for another one has the same scale, cell and seed.
    """

    runs: Mapping[Scale, Mapping[Cell, list[Run]]]
    others: tuple[Run, ...]
    repeated: tuple[Problem, ...]

    @cached_property
    def by_scale(self) -> Mapping[Scale, Mapping[Cell, Score]]:
        """Test accuracies, in percent, of each cell at each scale."""
        return {
            scale: {cell: self.measure(Quantity(cell), scale) for cell in cells} for scale, cells in self.runs.items()
        }

    @property
    def full(self) -> Mapping[Cell, Score]:
        """Those of runs at the paper's own setting."""
        return self.by_scale[FULL]

    def widths(self, scale: Scale) -> list[float]:
        """The widths that stand for the paper's width of 1 at a scale: the paper's own, or any that was trained."""
        return [1.0] if scale == FULL else sorted({cell.width for cell in self.runs[scale]})

    def measure(self, quantity: Quantity, scale: Scale) -> Score | None:
        """A quantity over the seeds of the runs of its cell at a scale; None where no run has it.

        Accuracies are in points, all else in the units that it is logged in.
        """
        found: dict[int, tuple[Run, float]] = {}
        for run in self.runs[scale].get(quantity.cell, ()):
            if quantity.probe in ("", run.probe) and run.seed not in found:
                value = 100 * run.score if quantity.metric == ACCURACY else _logged(quantity, run)
                if value is not None:
                    found[run.seed] = run, value
        return Score(*map(tuple, zip(*found.values()))) if found else None


def _logged(quantity: Quantity, run: Run) -> float | None:
    if quantity.metric not in run.metrics:
        return None
    values = run.metrics[quantity.metric]
    if quantity.period is not None:
        done = (run.metrics["step"] + 0.5) / (run.metrics["step"].max() + 1)
        values = values[done.between(*quantity.period)]
    values = values.dropna().tail(1 if quantity.period is None else len(values))
    return float(values.mean()) if len(values) else None


def sort_runs(runs: Iterable[Run]) -> Results:
    """Sort finished runs by scale and cell; the scale with most runs comes first, after the paper's own."""
    found: dict[Scale, dict[Cell, list[Run]]] = {FULL: {}}
    others, repeated = [], []
    for run in sorted(runs, key=lambda run: (run.seed, run.path)):
        if run.metric == "accuracy" and like(run.cell):
            same = found.setdefault(scale_of(run), {}).setdefault(run.cell, [])
            if any(run.seed == other.seed for other in same):
                which = f"{run.cell.in_words}, seed {run.seed}"
                repeated.append(Problem(run.path, f"repeats cell and seed of another run ({which}); not counted"))
            same.append(run)
        else:
            others.append(run)
    ordered = sorted(found.items(), key=lambda item: (item[0] != FULL, -sum(map(len, item[1].values()))))
    return Results(dict(ordered), tuple(others), tuple(repeated))


def scale_of(run: Run) -> Scale:
    """What a run was trained on and how; ``FULL`` where nothing sets it apart from how the paper trained its cell."""
    as_in_paper = run.cell in rows_by_cell() and not run.differences.keys() - set(OF_COST) and not _stopped(run)
    return FULL if as_in_paper else Scale.of(run)


def _stopped(run: Run) -> bool:
    return run.epoch + 1 < run.recipe["epochs"] and "trainer.max_forwards" not in run.differences


@cache
def like(cell: Cell) -> tuple[Row, ...]:
    """The paper's cells that a cell is like: of the same data, or of any where the paper does not have its data.

    Their width may be another.
    """
    data = {cell.data} if cell.data in _paper_data() else _paper_data()
    alike = (row for row in rows() if row.cell == replace(cell, data=row.cell.data, width=row.cell.width))
    return tuple(row for row in alike if row.cell.data in data)


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
    data = dict(scale.told)["data"]
    if data in _paper_data() and data != cell.data:
        return None
    return replace(cell, data=data, width=width if cell.width == 1 else cell.width)


def recipe_in_words(run: Run) -> str:
    """Write the whole recipe and the differences of a run that is like none of the paper's."""
    differing = {name: value for name, value in in_short(run.differences).items() if name not in _NAMES}
    return ", ".join(f"{name} {_text(value)}" for name, value in {**run.recipe, **differing, "seed": run.seed}.items())


def with_deviation(mean: float, std: float | None, forms: tuple[str, str] = (".1f", ".1f")) -> str:
    """Write a mean with its deviation, as the paper writes accuracies in percent: ``91.8 ± 0.3``."""
    return format(mean, forms[0]) + ("" if std is None else f" ± {std:{forms[1]}}")


def score_columns(score: Score | None) -> dict[str, object]:
    """A score as columns of a file, with the numbers of single runs: ``0:94.35185 1:94.62963``."""
    if score is None:
        return dict.fromkeys(("mean", "std", "seeds", "accuracies"))
    single = " ".join(f"{seed}:{value:.5f}" for seed, value in score.by_seed.items())
    return {"mean": score.mean, "std": score.std, "seeds": len(score.seeds), "accuracies": single}


def difference_columns(difference: Estimate | None) -> dict[str, object]:
    """A difference and its 95 % interval, as columns of a file."""
    if difference is None:
        return dict.fromkeys(("difference", "low", "high", "in_words"))
    low, high = (None, None) if difference.lack else difference.interval()
    return {"difference": difference.mean, "low": low, "high": high, "in_words": str(difference)}


def _text(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


@cache
def _paper_data() -> frozenset[str]:
    return frozenset(row.cell.data for row in rows())
