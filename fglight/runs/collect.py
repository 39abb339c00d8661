"""Run directories as records: what finished, what did not, what failed and what cannot be read."""

import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from fglight.cell import Cell, cell_of
from fglight.config.settings import MOVED, choices
from fglight.errors import ConfigError, one_line
from fglight.runs.folder import metric_of
from fglight.runs.record import RECIPE, metric_names


@dataclass(frozen=True)
class Run:
    """A finished run: its ``result.json``. Accuracies are fractions between 0 and 1.

    ``score`` is the test value of ``metric`` after the last epoch.

    ``recipe`` has what there is of ``RECIPE``. ``differences`` are the settings that depart from the paper's. Where a
    run of an earlier version did not record one, its ``config.yaml`` tells, or else it is among them as not known.
    ``probe`` is the auxiliary network that only logs, empty where none was recorded. ``seconds`` are a
    step's, with its share of tests. ``classes`` is how many there are of labels, None where nothing tells.
    """

    path: Path
    cell: Cell
    seed: int
    recipe: Mapping[str, float]
    differences: Mapping[str, Any]
    epoch: int
    score: float
    metric: str = "accuracy"
    probe: str = ""
    test_loss: float = math.nan
    seconds: float = math.nan
    classes: int | None = None


@dataclass(frozen=True)
class Failure:
    """A run that ended with an error, its ``failure.json``; ``what`` is its cell and seed as far as they are known."""

    path: Path
    what: str
    error: str


@dataclass(frozen=True)
class Unfinished:
    """A run that goes on or was interrupted; ``what`` is its cell and seed as far as they are known."""

    path: Path
    what: str
    metric: str = "accuracy"


@dataclass(frozen=True)
class Problem:
    """A file that could not be used, and why."""

    path: Path
    reason: str


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
        except _Unreadable as error:
            runs.problems.append(Problem(error.path, str(error)))
    return runs


class _Unreadable(Exception):
    """A file that does not hold what it should."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(reason)
        self.path = path


def _run_folders(root: Path, problems: list[Problem]) -> Iterator[Path]:
    def note(error: OSError) -> None:
        problems.append(Problem(Path(error.filename), error.strerror or str(error)))

    for folder, subfolders, names in os.walk(root, onerror=note):
        ran = "config.yaml" in names and "metrics" in subfolders
        if ran or "result.json" in names or "failure.json" in names:
            subfolders.clear()
            yield Path(folder)
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]  # such as Jupyter's copies


def _add(folder: Path, runs: Collection) -> None:
    result, failure = folder / "result.json", folder / "failure.json"
    if result.exists():
        runs.finished.append(_finished(result, _read_json(result)))
    elif failure.exists():
        words = _read_json(failure)
        runs.failed.append(Failure(folder, _named(words), str(words.get("error", "no error was recorded"))))
    else:
        runs.unfinished.append(_unfinished(folder / "config.yaml"))


def _read_json(path: Path) -> dict[str, Any]:
    try:
        words = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise _Unreadable(path, error.strerror or str(error)) from error
    except ValueError as error:  # not UTF-8, or half-written JSON
        raise _Unreadable(path, f"not valid JSON ({error})") from error
    if not isinstance(words, dict):
        raise _Unreadable(path, "not a JSON object")
    return words


def _finished(path: Path, words: dict[str, Any]) -> Run:
    try:
        run = Run(
            path=path.parent,
            cell=cell_of(words["cell"]),
            seed=int(words["seed"]),
            recipe={name: float(words["recipe"][name]) for name in RECIPE if words["recipe"][name] is not None},
            differences=_differences(path.parent, words),
            epoch=int(words["epoch"]),
            score=float(words[f"test_{metric_of(words)}"]),
            metric=metric_of(words),
            probe=_probe(path.parent, words),
            test_loss=float(words.get("test_loss", math.nan)),
            seconds=float(words.get("time_s", math.nan)) / (words.get("steps") or math.nan),
            classes=_classes(path.parent, words),
        )
    except KeyError as error:
        raise _Unreadable(path, f"no entry {error}") from error
    except (TypeError, ValueError) as error:
        raise _Unreadable(path, f"an entry of the wrong type ({error})") from error
    if run.metric == "accuracy" and not 0 <= run.score <= 1:
        raise _Unreadable(path, f"test_accuracy {run.score} is no fraction between 0 and 1")
    if not all(math.isfinite(number) for number in (*run.recipe.values(), run.cell.width)):
        raise _Unreadable(path, "a recipe or a width that is not finite")
    return run


def _differences(folder: Path, words: Mapping[str, Any]) -> dict[str, Any]:
    if "differences" not in words:
        recipe = {RECIPE[name]: value for name, value in words["recipe"].items() if value is not None}
        return {**recipe, **(words.get("options") or {}), "other settings": "not known"}
    found = {MOVED.get(name, name): value for name, value in words["differences"].items()}
    if words["cell"]["aux"] == "predsim":  # earlier versions took its thinned form for the paper's
        full = OmegaConf.select(_config(folder), "aux.full_conv")
        found.pop("aux.full_conv", None)
        if full is not True:
            found["aux.full_conv"] = "not known" if full is None else full
    return found


def _probe(folder: Path, words: Mapping[str, Any]) -> str:
    if "probe" in words:
        return str(words["probe"])
    config = _config(folder)
    return str(OmegaConf.select(config, "aux.name")) if config.get("probe") else ""


def _classes(folder: Path, words: Mapping[str, Any]) -> int | None:
    if "classes" in words:
        return int(words["classes"])
    told = _shipped_classes().get(words["cell"]["data"]) or OmegaConf.select(_config(folder), "data.num_classes")
    return told if isinstance(told, int) else None


@cache
def _shipped_classes() -> Mapping[str, int]:
    return {name: data["num_classes"] for name, data in choices("data").items() if isinstance(data["num_classes"], int)}


def _config(folder: Path) -> DictConfig:
    """A run's ``config.yaml``; empty where that cannot be read."""
    try:
        config = OmegaConf.load(folder / "config.yaml")
    except (OSError, YAMLError, UnicodeDecodeError):
        config = None
    return config if isinstance(config, DictConfig) else DictConfig({})


def _unfinished(path: Path) -> Unfinished:
    metric = "accuracy"  # as it was before there were others
    try:
        config = OmegaConf.load(path)
        for group in ("guess", "target", "model"):  # an earlier version did not say of them what their files now do
            config[group] = choices(group).get(config[group].name, {}) | OmegaConf.to_container(config[group])
        what = f"{Cell.from_config(config).in_words}, seed {config.seed}"
        if "loss" in config:
            metric = metric_names(config)[0]
    except OSError as error:
        raise _Unreadable(path, error.strerror or str(error)) from error
    except (YAMLError, UnicodeDecodeError) as error:
        raise _Unreadable(path, f"not valid YAML ({one_line(error)})") from error
    except (OmegaConfBaseException, AttributeError):  # some other configuration
        what = ""
    return Unfinished(path.parent, what, metric)


def _named(words: Mapping[str, Any]) -> str:
    """Name the cell and the seed of a failure as far as they are known."""
    try:
        return f"{cell_of(words['cell']).in_words}, seed {words['seed']}"
    except (KeyError, TypeError, ValueError):
        return ""
