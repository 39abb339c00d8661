"""Studies in two stages: learning rates on held-out images, then all seeds of each estimator at its best rate."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from fglight.errors import ConfigError
from fglight.paper.grids import LR_AXES
from fglight.runs.folder import State, read_result, state
from fglight.sweeps.jobs import Job, plan_jobs
from fglight.sweeps.request import Request
from fglight.sweeps.runner import Sweep
from fglight.text import counted

SEARCHED = (*LR_AXES, "data.holdout")
"""The settings in which the runs of the two stages differ."""


def run_study(request: Request, folder: Path, sweep: Callable[..., Sweep]) -> tuple[int, int]:
    """Search the learning rates that are not found yet, then do all seeds of the estimators whose rate is known.

    Args:
        request: of studies.
        folder: the directory that the runs' directories are in.
        sweep: makes the sweep of a request and its ``jobs``.

    Returns:
        How many runs failed, and how many there were.

    Raises:
        ConfigError: as ``Sweep`` does.
        DataError: likewise.
    """
    if "data.holdout" in request.settings:
        raise ConfigError("data.holdout goes with search=lr: a study holds images out in its search alone")
    seeds = plan_jobs(replace(request, settings={k: v for k, v in request.settings.items() if k not in LR_AXES}))
    searching = replace(request, search="lr", seeds=(0,))
    search = sweep(searching)
    grids = _by_estimator(search.jobs)
    searched = any(len(grid) > 1 for grid in grids.values())
    failed = search.run() if searched else 0
    best = {estimator: _best(grid, folder) for estimator, grid in grids.items()}
    waiting = {job.name for job in seeds if best[_estimator(job)] is None}
    if waiting and request.plan:
        which = counted(len(waiting), "learning rate")
        print(f"Then the seeds; {which} still to be found, shown as the first of the grid.", flush=True)
    elif waiting:
        print(
            f"{counted(len(waiting), 'estimator')} without a learning rate yet: {', '.join(sorted(waiting))}",
            flush=True,
        )
    final = [
        job.with_settings(_schedule(best[_estimator(job)] or grids[_estimator(job)][0]))
        for job in seeds
        if request.plan or job.name not in waiting
    ]
    if final:
        failed += sweep(request, jobs=final).run()
    return failed, len(search.jobs) * searched + len(final)


def _best(grid: Sequence[Job], folder: Path) -> Job | None:
    """The run of an estimator's search that was best, by accuracy and then by loss; None while one is missing."""
    if len(grid) == 1:
        return grid[0]
    folders = {job: folder / job.folder for job in grid}
    if any(state(path) not in (State.FINISHED, State.DIVERGED) for path in folders.values()):
        return None
    found = {job: result for job, path in folders.items() if (result := read_result(path))}
    return max(found, key=lambda job: (found[job].get("test_accuracy", 0), -found[job]["test_loss"]), default=None)


def _by_estimator(jobs: Sequence[Job]) -> dict[object, list[Job]]:
    groups: dict[object, list[Job]] = {}
    for job in jobs:
        groups.setdefault(_estimator(job), []).append(job)
    return groups


def _estimator(job: Job) -> object:
    """What the runs of an estimator share, in the search and after it."""
    return job.cell, tuple((name, value) for name, value in job.settings if name not in SEARCHED)


def _schedule(job: Job) -> dict[str, str]:
    """The learning rate and epochs between decays of a run."""
    return {name: value for name, value in job.settings if name in LR_AXES}
