"""What the searches for learning rates and for the size of auxiliary networks found."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean

from omegaconf import DictConfig
from rich.table import Table

from fglight.cell import Cell
from fglight.paper.recipes import recipe
from fglight.paper.searches import LARGEST_SHARE
from fglight.runs.folder import read_result
from fglight.sweeps.jobs import Job


def lr_table(jobs: Sequence[Job], sweep_dir: Path) -> Table:
    """The accuracy of each learning rate by cell, the best one marked, and the paper's choice beside."""
    accuracies = _accuracies(jobs, sweep_dir, ("optim.lr",))
    rates = sorted({rate for by_rate in accuracies.values() for (rate,) in by_rate}, key=float, reverse=True)
    table = Table("cell", *rates, "best", "paper's", title="held-out accuracy in % by learning rate")
    for cell, by_rate in accuracies.items():
        best = max(by_rate, key=by_rate.__getitem__)
        cells = [f"{100 * by_rate[(rate,)]:.1f}" if (rate,) in by_rate else "" for rate in rates]
        table.add_row(str(cell), *cells, best[0], f"{recipe(cell).lr:g}")
    return table


def aux_table(jobs: Sequence[Job], sweep_dir: Path, configs: Mapping[str, DictConfig]) -> Table:
    """For each kind of auxiliary network, the sizes from the best to the worst, with their share of FLOPs."""
    from fglight.sweeps.planning.size import aux_share  # loads torch

    shares = {_key(job, _SIZE): aux_share(configs[job.name]) for job in jobs}
    table = Table("aux", "depth", "hidden", "accuracy %", "FLOPs %", "", title="held-out accuracy by auxiliary size")
    for cell, by_size in _accuracies(jobs, sweep_dir, _SIZE).items():
        within = [size for size in by_size if shares[cell, size] < LARGEST_SHARE]
        best = max(within, key=by_size.__getitem__, default=None)
        for size in sorted(by_size, key=by_size.__getitem__, reverse=True):
            mark = f"best under {LARGEST_SHARE:.0%}" if size == best else ""
            table.add_row(cell.aux, *size, f"{100 * by_size[size]:.1f}", f"{100 * shares[cell, size]:.1f}", mark)
    return table


_SIZE = ("aux.depth", "aux.hidden")


def _key(job: Job, names: Sequence[str]) -> tuple[Cell, tuple[str, ...]]:
    return job.cell, tuple(dict(job.settings)[name] for name in names)


def _accuracies(jobs: Sequence[Job], sweep_dir: Path, names: Sequence[str]) -> dict[Cell, dict[tuple[str, ...], float]]:
    """Mean accuracy over the finished seeds, by cell and by the values of the settings that are searched."""
    found: dict[Cell, dict[tuple[str, ...], list[float]]] = {}
    for job in jobs:
        result = read_result(sweep_dir / job.folder)
        if result is not None:
            cell, values = _key(job, names)
            found.setdefault(cell, {}).setdefault(values, []).append(result["test_accuracy"])
    return {
        cell: {values: mean(accuracies) for values, accuracies in by_value.items()} for cell, by_value in found.items()
    }
