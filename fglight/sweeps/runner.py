"""Running a sweep: checks first, then every run that is not finished, then what came of it."""

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any

from hydra.core.utils import JobReturn, JobStatus
from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table

from fglight.errors import ConfigError, DataError, FglightError, LauncherError
from fglight.runs.folder import CHECKPOINT, State, make_directory, state
from fglight.runs.record import metric_names
from fglight.runs.settings import RunFacts, check_unchanged, departures
from fglight.sweeps.composing import checked
from fglight.sweeps.files import missing_files
from fglight.sweeps.jobs import Job, by_name, plan_jobs
from fglight.sweeps.progress import Progress, first_line
from fglight.sweeps.request import Request
from fglight.sweeps.searches import aux_table, lr_table
from fglight.text import counted

BYTES_A_PARAMETER = 8
"""In a checkpoint: the weight and its momentum, 4 bytes each."""


@dataclass
class Sweep:
    """The runs of a request, and what a Hydra sweeper needs to do them.

    Args:
        request: what was asked for.
        folder: the directory that the runs' directories are in.
        compose: makes the configuration of a list of overrides.
        launch: runs a batch of lists of overrides, numbered from the second argument on.
        serial: whether runs are done one by one in this process; elsewhere they are all handed over at once.
        jobs: the runs; none for those that the request lists.
        here: whether runs are done on this machine, so that the files of their data sets must be there.
        facts: those of the runs, but for their seeds, by their names.
        unasked: settings that are not as in the paper by their defaults, without an override.
    """

    request: Request
    folder: Path
    compose: Callable[[list[str]], DictConfig]
    launch: Callable[[Sequence[Sequence[str]], int], Sequence[JobReturn]]
    serial: bool
    jobs: list[Job] = field(default_factory=list)
    here: bool = True
    facts: dict[str, RunFacts] = field(init=False)
    unasked: list[str] = field(init=False)

    def __post_init__(self) -> None:
        """List the runs and check their configurations, before anything is started."""
        jobs: dict[PurePath, Job] = {}
        self.unasked = []
        self.facts = {}
        groups = by_name(self.jobs or plan_jobs(self.request)).values()
        for group, cfg in zip(groups, checked(self.compose, [group[0].overrides for group in groups])):
            if self.request.search and metric_names(cfg)[0] != "accuracy":
                raise ConfigError(
                    f"loss must have accuracy as its first metric with search={self.request.search}, which looks for "
                    f"the best, got {cfg.loss.name}"
                )
            facts = RunFacts.of(cfg)
            departing = departures(facts.settings, group[0].cell)
            unasked = (f"{name}={value}" for name, value in group[0].unasked(departing).items())
            self.unasked += [text for text in unasked if text not in self.unasked]
            for job in (job.with_short_name(departing) for job in group):
                self.facts.setdefault(job.name, facts)
                jobs.setdefault(job.folder, job)
        self.jobs = list(jobs.values())

    def run(self) -> int:
        """Do what is not finished.

        Returns:
            How many runs failed.

        Raises:
            ConfigError: a directory holds a run with other settings, cannot be written to, or has too little room.
            DataError: files of a data set are missing.
        """
        states = {job: state(self._dir(job)) for job in self.jobs}
        changed: list[ConfigError] = []
        for job in self.jobs:
            if states[job] is not State.NEW:
                try:
                    check_unchanged({**self.facts[job.name].settings, "seed": job.seed}, self._dir(job))
                except ConfigError as error:
                    changed.append(error)
        if changed:
            more = f" (and {counted(len(changed) - 1, 'more folder')})" if len(changed) > 1 else ""
            raise ConfigError(f"{changed[0]}{more}")
        todo = [job for job in self.jobs if states[job] not in self._ended]
        missing = missing_files(todo, self.configs) if self.here else ""
        if self.unasked:
            print(f"Defaults that are not as in the paper: {', '.join(sorted(self.unasked))}", flush=True)
        if self.request.plan:
            from fglight.sweeps.plan import show_plan  # loads torch

            show_plan(self.jobs, self.configs, states, self._ended)
            if missing:
                print(f"It would not start without files that are missing. {missing}", flush=True)
            return 0
        if missing:
            raise DataError(missing)
        self._check_room(todo)
        finished = len(self.jobs) - len(todo)
        begun = sum(states[job] not in (State.NEW, State.RUNNING) for job in todo)
        print(
            f"{self.request.words}: {counted(len(by_name(self.jobs)), 'cell')}, {counted(len(self.jobs), 'run')}, "
            f"{finished} finished, {begun} to go on with, into {self.folder}",
            flush=True,
        )
        progress = Progress({job: self._dir(job) for job in todo}, finished)
        try:
            self._launch(todo, progress)
        finally:
            failed = self._report(progress.errors)
        return failed

    @property
    def configs(self) -> dict[str, DictConfig]:
        """The configurations of the runs, but for their seeds, by their names."""
        return {name: facts.cfg for name, facts in self.facts.items()}

    @property
    def _ended(self) -> tuple[State, ...]:
        """The states of runs that are not to be done: a search has learnt what it can from one that diverged."""
        return (State.FINISHED, State.DIVERGED) if self.request.search == "lr" else (State.FINISHED,)

    def _launch(self, todo: Sequence[Job], progress: Progress) -> None:
        """Hand runs to the launcher and note what went wrong."""
        if self.serial:
            for number, job in enumerate(todo):
                errors = self._launched([job], number)
                progress.look()
                progress.errors |= errors
        elif todo:
            with progress.watching():
                errors = self._launched(todo, 0)
            progress.errors |= errors

    def _launched(self, batch: Sequence[Job], number: int) -> dict[Job, str]:
        try:
            returns = self.launch([self._overrides(job) for job in batch], number)
        except FglightError:
            raise
        except Exception as error:  # of the launcher itself: what became of its jobs the directories tell
            raise LauncherError(f"the launcher gave up ({type(error).__name__}: {first_line(str(error))})") from error
        # Reading return_value would raise the error and write to stderr.
        failed = ((job, ret) for job, ret in zip(batch, returns) if ret.status is not JobStatus.COMPLETED)
        return {job: str(vars(returned)["_return_value"]) for job, returned in failed}

    def _overrides(self, job: Job) -> list[str]:
        quiet = [] if self.serial or "trainer.enable_progress_bar" in self.request.settings else ["false"]
        return [
            *job.overrides,
            *(f"trainer.enable_progress_bar={value}" for value in quiet),
            f"hydra.sweep.dir={quoted(self.folder)}",
            f"hydra.sweep.subdir={quoted(job.folder)}",
        ]

    def _report(self, errors: Mapping[Job, str]) -> int:
        """Say what is done, what failed and why, and what a search found; each run is in one class.

        Returns:
            How many runs failed.
        """
        console = Console()
        states = {job: state(self._dir(job)) for job in self.jobs}
        finished = [job for job in self.jobs if states[job] is State.FINISHED]
        running = [job for job in self.jobs if states[job] is State.RUNNING]
        ended = sum(states[job] in self._ended for job in self.jobs)
        failed = {job: error for job, error in errors.items() if states[job] not in (*self._ended, State.RUNNING)}
        if failed:
            table = Table(title=f"{len(failed)} of {counted(len(self.jobs), 'run')} failed", show_lines=True)
            table.add_column("run", overflow="fold")
            table.add_column("why", overflow="fold")
            for job, error in failed.items():
                table.add_row(str(job.folder), first_line(error))
            console.print(table)
        elsewhere = f", {len(running)} being run by another process" if running else ""
        left = len(self.jobs) - ended - len(running) - len(failed)
        rest = f", {left} left: the same command goes on from here" if left else ""
        done = f"{len(finished)} of {counted(len(self.jobs), 'run')} finished"
        diverged = f", {ended - len(finished)} diverged" if ended > len(finished) else ""
        print(f"{done}{elsewhere}{diverged}, {len(failed)} failed{rest}", flush=True)
        if finished and self.request.search == "lr":
            console.print(lr_table(finished, self.folder))
        elif finished and self.request.search == "aux_size":
            console.print(aux_table(finished, self.folder, self.configs))
        return len(failed)

    def _check_room(self, todo: Sequence[Job]) -> None:
        """Refuse a directory that cannot be written to, or has no room for the checkpoints to come.

        Raises:
            ConfigError: as said.
        """
        from fglight.sweeps.size import parameter_count  # loads torch

        free = shutil.disk_usage(make_directory("hydra.sweep.dir", self.folder)).free
        sizes = {name: BYTES_A_PARAMETER * parameter_count(cfg) for name, cfg in self.configs.items()}
        new = [job for job in todo if not (self._dir(job) / CHECKPOINT).exists()]
        needed = sum(sizes[job.name] for job in new) + max((sizes[job.name] for job in todo), default=0)
        if needed > free:
            raise ConfigError(
                f"hydra.sweep.dir={self.folder} has {free / 1e9:.1f} GB free, but the checkpoints of "
                f"{counted(len(new), 'run')} need about {needed / 1e9:.1f} GB: make room, or choose a folder on "
                "another disk"
            )

    def _dir(self, job: Job) -> Path:
        return self.folder / job.folder


def quoted(value: Any) -> str:
    """A value that Hydra's parser takes as it is."""
    text = str(value).replace("\\", "\\\\").replace("'", "\\'")
    return f"'{text}'"
