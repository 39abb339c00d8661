"""Studies in two stages: learning rates on held-out images, then other seeds of each estimator at its best rate."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

from fglight.errors import ConfigError
from fglight.paper.grids import LR_AXES
from fglight.runs.folder import State, read_result, state
from fglight.studies import SEARCH_SEEDS, best_rate
from fglight.sweeps.jobs import Job, plan_jobs
from fglight.sweeps.request import Request
from fglight.sweeps.runner import Sweep
from fglight.text import counted

SEARCHED = (*LR_AXES, "data.holdout")
"""The settings in which the runs of the two stages differ."""

MOST = 2
"""How often a study's grid goes on by a rate on the side at which an estimator's best one is; each lies as far from the
last as that from the one before."""

Grid = dict[tuple[str, ...], list[Job]]
"""The runs of a search for an estimator's rate, by the point of ``LR_AXES``."""


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
    searching = replace(request, search="lr", seeds=SEARCH_SEEDS)
    search = sweep(searching)
    grids = _by_estimator(search.jobs)
    searched = any(len(grid) > 1 for grid in grids.values())
    if searched and set(SEARCH_SEEDS).intersection(request.seeds or ()):
        raise ConfigError(
            f"seed must be from {len(SEARCH_SEEDS)} on in a study, whose first seeds choose the learning rates, got "
            f"{','.join(map(str, request.seeds or ()))}"
        )
    failed = search.run() if searched else 0
    count = len(search.jobs) * searched
    for _ in range(MOST if searched and not request.plan and "optim.lr" not in request.settings else 0):
        wider = [job for grid in grids.values() for job in _beyond(grid, folder)]
        if not wider:
            break
        failed += (search := sweep(searching, jobs=wider)).run()
        count += len(wider)
        for estimator, grid in _by_estimator(search.jobs).items():
            grids[estimator] |= grid
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
        job.with_settings(dict(zip(LR_AXES, best[_estimator(job)] or next(iter(grids[_estimator(job)])))))
        for job in seeds
        if request.plan or job.name not in waiting
    ]
    if final:
        failed += sweep(request, jobs=final).run()
    return failed, count + len(final)


def _best(grid: Grid, folder: Path) -> tuple[str, ...] | None:
    """The point of an estimator's search that was best; None while a run is missing. One that diverged is out."""
    if len(grid) == 1:
        return next(iter(grid))
    found = {}
    for point, jobs in grid.items():
        states = [state(folder / job.folder) for job in jobs]
        if not {*states} <= {State.FINISHED, State.DIVERGED}:
            return None
        results = [result for job in jobs if (result := read_result(folder / job.folder))]
        if len(results) == len(jobs):
            found[point] = [(result.get("test_accuracy", 0), result["test_loss"]) for result in results]
    return best_rate(found)


def _beyond(grid: Grid, folder: Path) -> list[Job]:
    """The runs at the next rate beyond an estimator's grid, where the best one is at its edge."""
    best = _best(grid, folder)
    rates = sorted({float(rate) for rate, *_ in grid})
    if best is None or len(rates) < 2 or float(best[0]) not in (rates[0], rates[-1]):
        return []
    edge, before = (rates[-1], rates[-2]) if float(best[0]) == rates[-1] else rates[:2]
    return [job.with_settings({"optim.lr": f"{edge * edge / before:g}"}) for job in grid[best]]


def _by_estimator(jobs: Iterable[Job]) -> dict[object, Grid]:
    grids: dict[object, Grid] = {}
    for job in jobs:
        settings = dict(job.settings)
        point = tuple(settings.get(axis, "") for axis in LR_AXES)
        grids.setdefault(_estimator(job), {}).setdefault(point, []).append(job)
    return grids


def _estimator(job: Job) -> object:
    """What the runs of an estimator share, in the search and after it."""
    return job.cell, tuple((name, value) for name, value in job.settings if name not in SEARCHED)
