"""The runs of a sweep."""

import hashlib
import itertools
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import PurePath
from typing import Any

from fglight.cell import Cell
from fglight.errors import ConfigError
from fglight.paper.grids import LR_AXES, schedules
from fglight.paper.recipes import MODELS, nearest, recipe
from fglight.runs.settings import is_told, unused, within
from fglight.sweeps.entries import Entry, entries_of, with_controls
from fglight.sweeps.request import Request

NAME_LENGTH = 120
"""Names of folders stay below this; the settings in a longer one are replaced by their hash."""


@dataclass(frozen=True)
class Job:
    """One run of a sweep.

    Attributes:
        cell: the cell.
        seed: the seed.
        settings: overrides beside cell and seed, as sorted (name, value).
        lr_step: epochs between decays where the schedule is shrunk; None for the recipe's.
        group: of the run on Weights & Biases.
        told: the settings that the folder's name tells.
        label: of the study's row that it is a run of; empty for others.
    """

    cell: Cell
    seed: int
    settings: tuple[tuple[str, str], ...]
    lr_step: int | None
    group: str = field(compare=False)
    told: tuple[tuple[str, str], ...] = field(compare=False)
    label: str = field(default="", compare=False)

    @property
    def name(self) -> str:
        """What the runs of the same cell and settings share: ``digits-8b-global-exact_trainer.max_epochs=3``."""
        changes = ",".join(f"{key}={value}" for key, value in self.told)
        if not changes:
            return str(self.cell)
        name = f"{self.cell}_{changes}"
        if len(name) > NAME_LENGTH or not re.fullmatch(r"[\w.,=+~-]+", name):
            name = f"{self.cell}_{hashlib.sha256(changes.encode()).hexdigest()[:12]}"
        return name

    @property
    def folder(self) -> PurePath:
        """The run's directory below the sweep's; it follows from the cell, the settings and the seed alone."""
        return PurePath(self.name, f"seed{self.seed}")

    def with_short_name(self, departures: Mapping[str, Any]) -> "Job":
        """The same run in a folder whose name tells all settings that are not as in the paper, and no others.

        Args:
            departures: these settings, as ``fglight.runs.settings.departures`` gives them.
        """
        told = {key: value for key, value in self.told if any(within(name, [plain(key)]) for name in departures)}
        return replace(self, told=tuple(sorted({**told, **self.unasked(departures)}.items())))

    def unasked(self, departures: Mapping[str, Any]) -> dict[str, str]:
        """The departures that no override asked for, but the defaults have; another component is told by its name."""
        paper = nearest(self.cell, random=False)
        asked = [plain(key) for key, _ in self.settings] + ["scheduler.step_size"] * (self.lr_step is not None)
        asked += [part for part, name in asdict(paper).items() if getattr(self.cell, part) != name]  # not in the paper
        found = {name: value for name, value in departures.items() if not within(name, [*asked, *unused(self.cell)])}
        named = {name.removesuffix(".name"): value for name, value in found.items() if name.endswith(".name")}
        rest = {name: value for name, value in found.items() if not within(name, named)}
        return {name: json.dumps(value).strip('"') for name, value in (rest | named).items()}  # as an override has it

    def with_settings(self, settings: Mapping[str, str]) -> "Job":
        """The same run with other values of some settings."""
        ordered = tuple(sorted({**dict(self.settings), **settings}.items()))
        return replace(self, settings=ordered, told=_told(ordered))

    @property
    def overrides(self) -> list[str]:
        """The Hydra overrides that make the run's configuration."""
        cell = self.cell
        chosen = {
            "target": cell.target,
            "guess": cell.guess,
            "perturb": cell.perturb,
            "aux": cell.aux,
            "model": MODELS[cell.blocks],
            "data": cell.data,
            "model.width": "" if "model" in dict(self.settings) else repr(cell.width),
            "scheduler.step_size": "" if self.lr_step is None else str(self.lr_step),
            "logger.group": self.group,
        }
        return [
            *(f"{key}={value}" for key, value in chosen.items() if value and key not in dict(self.settings)),
            *(f"{key}={value}" for key, value in self.settings),
            f"seed={self.seed}",
        ]


def plan_jobs(request: Request) -> list[Job]:
    """List the runs of a sweep, each once, in the order of the tables.

    Raises:
        ConfigError: no cell is left, or a setting is not possible.
    """
    entries = _in_place(_matching(list(entries_of(request)), request), request)
    if request.controls:
        entries = with_controls(entries)
    if request.search == "lr":
        entries = [
            replace(entry, settings={**entry.settings, **schedule, "data.holdout": entry.holdout}, group="search-lr")
            for entry in entries
            for schedule in schedules(entry.cell, entry.rates)
        ]
    jobs: dict[tuple[str, int], Job] = {}
    for entry in entries:
        seeds = request.seeds or range(entry.first, entry.first + (request.count or entry.seeds))
        for values in itertools.product(*request.settings.values()):
            for seed in seeds:
                job = _job(entry, {**entry.scale, **dict(zip(request.settings, values))}, seed)
                jobs.setdefault((job.name, seed), job)
    return list(jobs.values())


def _matching(entries: list[Entry], request: Request) -> list[Entry]:
    """The entries that the request's filters keep."""
    wanted = dict(request.filters)
    known = {entry.cell.data for entry in entries}
    if request.data and known.issuperset(request.data):
        wanted["data"] = request.data
    so_far = []
    for key, values in wanted.items():
        so_far.append(f"{key}={','.join(values)}")
        kept = [entry for entry in entries if _word(entry.cell, key) in values]
        if not kept:
            there = sorted({_word(entry.cell, key) for entry in entries} - {""})
            instead = f"{key} must be {' or '.join(there)}" if there else f"leave out {key}"
            raise ConfigError(f"no cell of {request.words} has {' and '.join(so_far)}: {instead}")
        entries = kept
    return entries


def _word(cell: Cell, key: str) -> str:
    return MODELS[cell.blocks] if key == "model" else str(getattr(cell, key))


def _in_place(entries: list[Entry], request: Request) -> list[Entry]:
    """The entries on the data sets asked for; those that became the same one are one, with the most seeds."""
    known = {entry.cell.data for entry in entries}
    if not request.data or known.issuperset(request.data):
        return entries
    merged: dict[tuple, Entry] = {}
    for data, entry in itertools.product(request.data, entries):
        moved = replace(entry, cell=replace(entry.cell, data=data))
        key = (moved.cell, *sorted(moved.settings.items()))
        seeds = max(moved.seeds, merged[key].seeds) if key in merged else moved.seeds
        merged[key] = replace(merged.get(key, moved), seeds=seeds)
    return list(merged.values())


def _job(entry: Entry, chosen: Mapping[str, str], seed: int) -> Job:
    settings = {**entry.settings, **chosen}
    width = _number("model.width", settings.pop("model.width", "1"))
    cell = replace(entry.cell, width=entry.cell.width * width)
    if "aux.hidden" in entry.settings and "aux.hidden" not in chosen:
        settings["aux.hidden"] = str(max(1, round(int(entry.settings["aux.hidden"]) * width)))
    lr_step = None
    if settings.get("scheduler", "step") != "step":
        settings = {key: value for key, value in settings.items() if key in chosen or "scheduler." not in key}
    elif "trainer.max_epochs" in chosen and "scheduler.step_size" not in chosen:
        paper = recipe(cell)
        of = int(entry.settings.get("trainer.max_epochs", paper.epochs))
        lr_step = shrunk(int(settings.get("scheduler.step_size", paper.lr_step)), of, chosen["trainer.max_epochs"])
        if "scheduler.step_size" in settings:
            settings["scheduler.step_size"] = str(lr_step)
    ordered = tuple(sorted(settings.items()))
    return Job(cell, seed, ordered, lr_step, entry.group, _told(ordered), entry.label)


def _told(settings: Iterable[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
    return tuple((key, value) for key, value in settings if is_told(plain(key)))


def shrunk(lr_step: int, epochs: int, max_epochs: str) -> int:
    """Epochs between decays, at least 1, that are to ``max_epochs`` what ``lr_step`` is to ``epochs``.

    Raises:
        ConfigError: ``max_epochs`` is no number above 0.
    """
    return max(1, round(lr_step * _number("trainer.max_epochs", max_epochs) / epochs))


def _number(key: str, value: str) -> float:
    try:
        number = float(value)
    except ValueError:
        number = 0
    if not 0 < number < float("inf"):
        raise ConfigError(f"{key} must be a number above 0, got {value}")
    return number


def plain(key: str) -> str:
    """The name of a setting that an override changes, adds or takes away."""
    return key.lstrip("+~")


def by_name(jobs: Iterable[Job]) -> dict[str, list[Job]]:
    """The jobs of each cell and settings, its seeds."""
    groups: dict[str, list[Job]] = {}
    for job in jobs:
        groups.setdefault(job.name, []).append(job)
    return groups


def in_words(jobs: Sequence[Job]) -> tuple[str, dict[str, str]]:
    """What runs are called in tables for people.

    Returns:
        What all runs of a study share, and by the runs' names their estimators' labels, with the scale where runs of
        an estimator differ in it. Other runs share nothing and are called by their names.
    """
    if not all(job.label for job in jobs):
        return "", {job.name: job.name for job in jobs}
    scales = {job.name: _scale(job) for job in jobs}
    of_label: dict[str, set[str]] = {}
    for job in jobs:
        of_label.setdefault(job.label, set(scales[job.name])).intersection_update(scales[job.name])
    shared = set.intersection(*of_label.values())
    title = ", ".join(word for word in scales[jobs[0].name] if word in shared)
    names = {}
    for job in jobs:
        own = [word for word in scales[job.name] if word not in of_label[job.label]]
        names[job.name] = ", ".join([job.label, *own])
    return title, names


def _scale(job: Job) -> list[str]:
    """The data set, the width and the settings of a run, but for those that searches choose."""
    told = (f"{key}={value}" for key, value in job.told if key not in LR_AXES)
    return [job.cell.data, f"model.width={job.cell.width:g}", *told]
