"""Run directories as records: what finished, what did not, what failed and what cannot be read."""

import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from fglight.cell import Cell, cell_of
from fglight.errors import ConfigError, one_line
from fglight.runs.folder import CONFIG, FAILURE, METRICS, RESULT
from fglight.runs.logged import Problem, read_metrics, reading
from fglight.runs.record import RECIPE, metric_names


@dataclass(frozen=True)
class _Folder:
    """A run's directory.

    Attributes:
        path: of the directory.
        problems: receives a line for each file of metrics, or part of one, that cannot be used.
    """

    path: Path
    problems: list[Problem] = field(repr=False, compare=False)

    @cached_property
    def metrics(self) -> pd.DataFrame:
        """What it logged; see ``read_metrics``."""
        return read_metrics(self.path, self.problems)


@dataclass(frozen=True)
class Run(_Folder):
    """A finished run: its ``result.json``.

    Attributes:
        cell: what was trained.
        seed: its seed.
        recipe: what there is of ``RECIPE``.
        differences: the settings that depart from the paper's.
        epoch: the last one, from 0.
        metric: what it is judged by.
        score: the test value of it after the last epoch; accuracies are fractions between 0 and 1.
        probe: the auxiliary network that only logs; empty where there is none.
        test_loss: after the last epoch; NaN where it was not kept.
        seconds: of a step, with its share of tests; NaN where they were not kept.
        classes: how many there are of labels; None where that means nothing.
    """

    cell: Cell
    seed: int
    recipe: Mapping[str, float]
    differences: Mapping[str, Any]
    epoch: int
    metric: str
    score: float
    probe: str
    test_loss: float
    seconds: float
    classes: int | None


@dataclass(frozen=True)
class Unfinished(_Folder):
    """A run that goes on or was interrupted; ``what`` is its cell and seed as far as they are known."""

    what: str
    metric: str


class Failure(NamedTuple):
    """A run that ended with an error, its ``failure.json``; ``what`` is its cell and seed as far as they are known."""

    path: Path
    what: str
    error: str


@dataclass
class Collection:
    """Every run directory below some folders."""

    roots: tuple[Path, ...] = ()
    finished: list[Run] = field(default_factory=list)
    unfinished: list[Unfinished] = field(default_factory=list)
    failed: list[Failure] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)


def collect(roots: Iterable[Path]) -> Collection:
    """Read every run directory at any depth below ``roots``, but for those in hidden folders.

    Returns:
        The runs in the order of their paths. Files that cannot be read are among the ``problems``.

    Raises:
        ConfigError: A root is no folder.
    """
    runs = Collection(tuple(roots))
    for root in runs.roots:
        if not root.is_dir():
            raise ConfigError(f"No folder of runs at '{root}'.")
    folders = {folder.resolve(): folder for root in runs.roots for folder in _run_folders(root, runs.problems)}
    for folder in sorted(folders.values()):
        try:
            _add(folder, runs)
        except Problem as problem:
            runs.problems.append(problem)
    return runs


def _run_folders(root: Path, problems: list[Problem]) -> Iterator[Path]:
    def note(error: OSError) -> None:
        problems.append(Problem(Path(error.filename), error.strerror or str(error)))

    for folder, subfolders, names in os.walk(root, onerror=note):
        if {RESULT, FAILURE} & set(names) or (CONFIG in names and METRICS in subfolders):
            subfolders.clear()
            yield Path(folder)
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]  # such as Jupyter's copies


def _add(folder: Path, runs: Collection) -> None:
    result, failure = folder / RESULT, folder / FAILURE
    if result.exists():
        runs.finished.append(_finished(result, _read_json(result), runs.problems))
    elif failure.exists():
        found = _read_json(failure)
        runs.failed.append(Failure(folder, _named(found), one_line(found.get("error", "no error was recorded"))))
    else:
        runs.unfinished.append(_unfinished(folder / CONFIG, runs.problems))


def _read_json(path: Path) -> dict[str, Any]:
    with reading(path, "valid JSON"):
        found = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(found, dict):
        raise Problem(path, "not a JSON object")
    return found


def _finished(path: Path, result: dict[str, Any], problems: list[Problem]) -> Run:
    try:
        run = Run(
            path=path.parent,
            problems=problems,
            cell=cell_of(result["cell"]),
            seed=int(result["seed"]),
            recipe={name: float(result["recipe"][name]) for name in RECIPE if result["recipe"][name] is not None},
            differences=dict(result["differences"]),
            epoch=int(result["epoch"]),
            metric=result["metric"],
            score=float(result[f"test_{result['metric']}"]),
            probe=result["probe"],
            test_loss=float(result.get("test_loss", math.nan)),
            seconds=float(result.get("time_s", math.nan)) / (result["steps"] or math.nan),
            classes=result["classes"],
        )
    except KeyError as error:
        raise Problem(path, f"no entry {error}") from error
    except (TypeError, ValueError) as error:
        raise Problem(path, f"an entry of the wrong type ({error})") from error
    if run.metric == "accuracy" and not 0 <= run.score <= 1:
        raise Problem(path, f"test_accuracy {run.score} is no fraction between 0 and 1")
    if not all(math.isfinite(number) for number in (*run.recipe.values(), run.cell.width)):
        raise Problem(path, "a recipe or a width that is not finite")
    return run


def _unfinished(path: Path, problems: list[Problem]) -> Unfinished:
    what, metric = "", "accuracy"
    with reading(path, "valid YAML"):
        config = OmegaConf.load(path)
    try:
        what = f"{Cell.from_config(config).in_words}, seed {config.seed}"
        metric = metric_names(config)[0]
    except (OmegaConfBaseException, AttributeError):  # some other configuration
        pass
    return Unfinished(path.parent, problems, what, metric)


def _named(failure: Mapping[str, Any]) -> str:
    """Name the cell and the seed of a failure as far as they are known."""
    try:
        return f"{cell_of(failure['cell']).in_words}, seed {failure['seed']}"
    except (KeyError, TypeError, ValueError):
        return ""
