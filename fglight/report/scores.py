"""Which published cell each run stands for, what sets it apart from the paper's training, and means over seeds."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from math import isclose
from typing import Any

import pandas as pd

from fglight.cell import Cell
from fglight.paper import BATCH_SIZE, MOMENTUM, WEIGHT_DECAY, Row, rows
from fglight.runs.collect import Problem, Run
from fglight.runs.record import RECIPE
from fglight.runs.settings import OF_COST, in_short
from fglight.words import counted

Setting = tuple[tuple[str, str], ...]
"""What sets a run apart from the paper's training of its cell, as sorted (name, value); empty for the paper's own."""

FULL: Setting = ()


@dataclass(frozen=True)
class Score:
    """A number over the seeds of one cell and setting; ``std`` (n - 1) is None for one seed."""

    mean: float
    std: float | None
    seeds: tuple[int, ...]
    runs: tuple[Run, ...]

    @classmethod
    def of(cls, runs: Sequence[Run], values: Iterable[float]) -> "Score":
        """The score of runs of different seeds, and a number of each."""
        numbers = pd.Series(values)
        std = float(numbers.std()) if len(numbers) > 1 else None
        return cls(float(numbers.mean()), std, tuple(run.seed for run in runs), tuple(runs))


def within_noise(difference: float, scores: Iterable[Score]) -> bool:
    """Whether a difference is no larger than the standard deviations of all that it is made of together."""
    return abs(difference) <= sum(score.std or 0 for score in scores)


@dataclass(frozen=True)
class Scores:
    """Every finished run by what it is comparable with.

    Attributes:
        by_cell: test accuracies in percent of each of the paper's cells, by setting. Full-scale ones come
            first.
        others: runs of cells that the paper does not have.
        lines: a line for each run and cell that it stands for: ``cell``, ``setting``, ``seed``, ``run``.
        repeated: runs not counted, for another one has the same cell, setting and seed.
    """

    by_cell: Mapping[Cell, Mapping[Setting, Score]]
    others: tuple[Run, ...]
    lines: pd.DataFrame
    repeated: tuple[Problem, ...]

    def runs(self, cell: Cell, setting: Setting) -> list[Run]:
        """All runs of a cell and setting, repeated ones too."""
        return self._by_cell_and_setting.get((cell, setting), [])

    @cached_property
    def _by_cell_and_setting(self) -> Mapping[tuple[Cell, Setting], list[Run]]:
        runs: dict[tuple[Cell, Setting], list[Run]] = {}
        for cell, name, run in zip(self.lines["cell"], self.lines["setting"], self.lines["run"]):
            runs.setdefault((cell, name), []).append(run)
        return runs

    def shown(self, cell: Cell) -> Mapping[Setting, Score]:
        """The scores to show for a cell: the full-scale one alone if there is one, else one a setting."""
        scores = self.by_cell.get(cell, {})
        return {FULL: scores[FULL]} if FULL in scores else scores


def score(runs: Iterable[Run]) -> Scores:
    """Sort runs by the cell that they stand for and their setting, and average over seeds."""
    origins = [(run, stands_for(run)) for run in runs]
    lines = [(row.cell, setting(run, row), run.seed, run) for run, rows in origins for row in rows]
    frame = pd.DataFrame(sorted(lines, key=lambda line: line[1:3]), columns=["cell", "setting", "seed", "run"])
    again = frame.duplicated(["cell", "setting", "seed"])
    repeated = {
        run.path: Problem(
            run.path, f"repeats cell and seed of another run ({run.cell.in_words}, seed {run.seed}); not counted"
        )
        for run in frame[again]["run"]
    }
    by_cell: dict[Cell, dict[Setting, Score]] = {}
    for (cell, name), group in frame[~again].groupby(["cell", "setting"], sort=False):
        by_cell.setdefault(cell, {})[name] = Score.of(group["run"], [100 * run.score for run in group["run"]])
    others = tuple(run for run, rows in origins if not rows)
    return Scores(by_cell, others, frame, tuple(repeated.values()))


@cache
def _rows() -> Mapping[tuple[object, ...], list[Row]]:
    """The paper's cells by what is left of them without data set and width."""
    found: dict[tuple[object, ...], list[Row]] = {}
    for row in rows():
        found.setdefault(_architecture(row.cell), []).append(row)
    return found


@cache
def _paper_data() -> frozenset[str]:
    return frozenset(row.cell.data for row in rows())


def stands_for(run: Run) -> tuple[Row, ...]:
    """The published cells that a run stands for.

    A cell of the paper stands for itself. A run on data that the paper does not use stands for the same cell on each
    of the paper's data sets, or on those alone whose learning rate and decay it has; one of another width stands
    for the cell of width 1. A run whose result is no accuracy stands for none.
    """
    if run.metric != "accuracy":
        return ()
    cell = run.cell
    other_data = cell.data not in _paper_data()
    alike = [row for row in _rows().get(_architecture(cell), []) if other_data or row.cell.data == cell.data]
    of_width = [row for row in alike if row.cell.width == cell.width] or [row for row in alike if row.cell.width == 1]
    of_recipe = [row for row in of_width if _same_rate(run, row)]
    return tuple(of_recipe or of_width)


def setting(run: Run, row: Row) -> Setting:
    """What sets a run apart from the paper's training of a cell."""
    paper = {
        "lr": row.lr,
        "lr_gamma": row.lr_gamma,
        "epochs": row.epochs,
        "batch_size": BATCH_SIZE,
        "momentum": MOMENTUM,
        "weight_decay": WEIGHT_DECAY,
    }
    there = run.recipe.keys() & paper.keys()
    differs = {name: f"{run.recipe[name]:g}" for name in there if not isclose(run.recipe[name], paper[name])}
    proportional = row.lr_step * run.recipe["epochs"] / row.epochs
    if abs(run.recipe.get("lr_step", proportional) - proportional) >= 1:
        differs["lr_step"] = f"{run.recipe['lr_step']:g}"
    if run.epoch + 1 < run.recipe["epochs"]:
        differs["stopped after epoch"] = str(run.epoch + 1)
    if run.cell.data != row.cell.data:
        differs["data"] = run.cell.data
    if run.cell.width != row.cell.width:
        differs["width"] = f"{run.cell.width:g}"
    return tuple(sorted({**differs, **_beside_recipe(run)}.items()))


def setting_in_words(name: Setting) -> str:
    """Write a setting for people, the data first: ``digits, 3 epochs``; the paper's own is ``full scale``."""
    words: dict[str, Callable[[Any], str]] = {"data": str, "epochs": lambda value: counted(value, "epoch")}
    ordered = sorted(name, key=lambda item: (item[0] != "data", item))
    return ", ".join(words[key](value) if key in words else f"{key} {value}" for key, value in ordered) or "full scale"


def recipe_in_words(run: Run) -> str:
    """Write the whole recipe and the differences of a run that is like none of the paper's."""
    names = {**run.recipe, **_beside_recipe(run), "seed": run.seed}
    return ", ".join(
        f"{name} {value:g}" if isinstance(value, float) else f"{name} {value}" for name, value in names.items()
    )


def accuracy(mean: float, std: float | None) -> str:
    """Write an accuracy in percent with its deviation, as the paper does: ``91.8 ± 0.3``."""
    return f"{mean:.1f}" if std is None else f"{mean:.1f} ± {std:.1f}"


def _architecture(cell: Cell) -> tuple[object, ...]:
    return cell.network, cell.blocks, cell.target, cell.guess, cell.aux, cell.perturb


def _beside_recipe(run: Run) -> dict[str, str]:
    """The differences that the recipe and the names of components do not tell."""
    told = {*OF_COST, *(RECIPE[name] for name in run.recipe)}
    return {name: str(value) for name, value in in_short(run.differences).items() if name not in told}


def _same_rate(run: Run, row: Row) -> bool:
    paper = {"lr": row.lr, "lr_gamma": row.lr_gamma}
    return all(name in run.recipe and isclose(run.recipe[name], value) for name, value in paper.items())
