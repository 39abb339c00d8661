"""What the searches for learning rates and for the size of auxiliary networks found."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import mean

from omegaconf import DictConfig
from rich.table import Column, Table

from fglight.paper import rows_by_cell
from fglight.paper.grids import LARGEST_SHARE, LR_AXES, SIZE_AXES
from fglight.paper.recipes import recipe
from fglight.runs.folder import read_result
from fglight.sweeps.jobs import Job, in_words, plain, shrunk

Point = tuple[str, ...]
"""A value of each setting that is searched."""


def lr_table(jobs: Sequence[Job], sweep_dir: Path) -> Table:
    """The accuracy of each learning rate and step size by cell, the best ones and the paper's choice for it beside.

    The paper's step is shrunk with the number of epochs, as those of the runs are.
    """
    found = _by_point(jobs, LR_AXES)
    rates = sorted({rate for points in found.values() for rate, _ in points}, key=float, reverse=True)
    shared, labels = in_words(jobs)
    title = ": ".join(filter(None, ["held-out accuracy in % by learning rate and step", shared]))
    table = _table(title, "step", *rates, "best", "paper's")
    for name, points in found.items():
        accuracies = {point: _accuracy(runs, sweep_dir) for point, runs in points.items()}
        best = max(accuracies, key=accuracies.__getitem__)
        (job, *_), *_ = points.values()
        words = [labels[job.name] if job.label else name, ", ".join(best), _paper_s(job)]
        for step in sorted({step for _, step in points}, key=lambda step: float(step or 0)):
            line = [f"{accuracies[rate, step]:.1f}" if (rate, step) in points else "" for rate in rates]
            table.add_row(words[0], step, *line, *words[1:])
            words = ["", "", ""]
    return table


def aux_table(jobs: Sequence[Job], sweep_dir: Path, configs: Mapping[str, DictConfig]) -> Table:
    """For each kind of auxiliary network, the sizes from the best to the worst, with their share of FLOPs."""
    from fglight.sweeps.size import aux_share  # loads torch

    table = _table("held-out accuracy by auxiliary size", "depth", "hidden", "accuracy %", "FLOPs %", "")
    for name, sizes in _by_point(jobs, SIZE_AXES).items():
        accuracies = {size: _accuracy(runs, sweep_dir) for size, runs in sizes.items()}
        shares = {size: aux_share(configs[runs[0].name]) for size, runs in sizes.items()}
        within = [size for size in sizes if shares[size] < LARGEST_SHARE]
        best = max(within, key=accuracies.__getitem__, default=None)
        for size in sorted(sizes, key=accuracies.__getitem__, reverse=True):
            mark = f"best under {LARGEST_SHARE:.0%}" if size == best else ""
            table.add_row(name, *size, f"{accuracies[size]:.1f}", f"{100 * shares[size]:.1f}", mark)
    return table


def _table(title: str, *columns: str) -> Table:
    """A table by cells, whose names are told in full."""
    return Table(Column("cell", overflow="fold"), *(Column(name, no_wrap=True) for name in columns), title=title)


def _paper_s(job: Job) -> str:
    """The rate and step that the paper chose for a cell at any width and length; empty where it has none such."""
    changed = {plain(key) for key, _ in job.told}.difference(LR_AXES, ("data.holdout", "trainer.max_epochs"))
    if changed or replace(job.cell, width=1.0) not in rows_by_cell():
        return ""
    paper = recipe(job.cell)
    epochs = dict(job.settings).get("trainer.max_epochs", str(paper.epochs))
    return f"{paper.lr:g}, {shrunk(paper.lr_step, paper.epochs, epochs)}"


def _by_point(jobs: Sequence[Job], axes: Sequence[str]) -> dict[str, dict[Point, list[Job]]]:
    """The runs of each row and point of a grid, which differ in their seeds alone.

    A row is named by its cell, and by those settings beside ``axes`` that not all runs share.
    """
    shared = set.intersection(*(set(job.settings) for job in jobs))
    found: dict[str, dict[Point, list[Job]]] = {}
    for job in jobs:
        settings = dict(job.settings)
        point = tuple(settings.pop(axis, "") for axis in axes)
        own = [f"{key}={value}" for key, value in settings.items() if (key, value) not in shared]
        found.setdefault(", ".join([str(job.cell), *own]), {}).setdefault(point, []).append(job)
    return found


def _accuracy(runs: Sequence[Job], sweep_dir: Path) -> float:
    """The mean test accuracy of finished runs, in percent."""
    results = filter(None, (read_result(sweep_dir / job.folder) for job in runs))
    return 100 * mean(result["test_accuracy"] for result in results)
