"""Runs of any folders as one sorted table: ``fglight show --help``."""

import argparse
import sys
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.table import Table

from fglight.cell import Cell
from fglight.errors import ConfigError
from fglight.report.intervals import Estimate
from fglight.report.results import Scale
from fglight.runs.collect import Run, collect
from fglight.text import counted, measured

Settings = tuple[tuple[str, str], ...]
"""What runs that differ in their seeds alone were trained with: names and values."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table.

    Returns:
        Exit status: 0, or 1 where there is nothing to show.
    """
    parser = argparse.ArgumentParser(
        "fglight show",
        description="Print finished runs as one table, the best first; those that differ in seeds alone share a row.",
        epilog="Intervals are of 95 %, by Student's t over the seeds; one seed has none.",
    )
    parser.add_argument("roots", nargs="+", type=Path, metavar="FOLDER", help="with runs at any depth")
    try:
        show(parser.parse_args(arguments).roots)
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def show(roots: Iterable[Path]) -> None:
    """Print the runs below some folders; see ``main``.

    Raises:
        ConfigError: a folder is none, or there is no finished run.
    """
    roots = list(roots)
    for root in roots:
        if not root.is_dir():
            raise ConfigError(f"FOLDER must be a folder with runs, got {root}")
    found = collect(roots)
    if not found.finished:
        raise ConfigError(f"there must be a finished run below {', '.join(map(str, roots))}, and there is none")
    console = Console(width=None if sys.stdout.isatty() else 160)
    for metric in dict.fromkeys(run.metric for run in found.finished):
        shared, made = table(metric, [run for run in found.finished if run.metric == metric])
        print(shared)
        console.print(made)
    rest = {"unfinished": len(found.unfinished), "failed": len(found.failed), "unreadable": len(found.problems)}
    others = [f"{count} {word}" for word, count in rest.items() if count]
    print(counted(len(found.finished), "finished run"), *others, sep=", ")


def table(metric: str, runs: Iterable[Run]) -> tuple[str, Table]:
    """A row for runs that differ in their seeds alone, sorted by the mean of a metric, accuracies from the best on.

    Args:
        metric: its name.
        runs: which are judged by it.

    Returns:
        What all have in common, in words, and the table.
    """
    alike = defaultdict[Settings, dict[int, float]](dict)
    for run in runs:
        alike[_settings(run)][run.seed] = run.score
    rows = {settings: Estimate.of([*of_seeds.values()]) for settings, of_seeds in alike.items()}
    common = set.intersection(*map(set, rows))
    names = list(dict.fromkeys(name for settings in rows for name, value in settings if (name, value) not in common))
    shown = ", ".join(f"{name} {value}" for name, value in next(iter(rows)) if (name, value) in common)
    parts = [name for name in names if name in Cell.__dataclass_fields__]
    others = [name for name in names if name not in parts]
    made = Table()
    for name in (*parts, *["other settings"] * bool(others), "seeds", metric, "95 %"):
        made.add_column(name, justify="right" if name in ("seeds", metric) else "left", overflow="fold")
    for settings, estimate in sorted(rows.items(), key=lambda row: row[1].mean, reverse=metric == "accuracy"):
        low, high = (measured(metric, bound).removesuffix(" %") for bound in estimate.interval())
        interval = f"[{low}, {high}]" if estimate.seeds > 1 else ""
        had = dict(settings)
        told = [", ".join(f"{name}={had[name]}" for name in others if name in had)] * bool(others)
        made.add_row(
            *(had.get(name, "") for name in parts),
            *told,
            str(estimate.seeds),
            measured(metric, estimate.mean),
            interval,
        )
    return shown, made


def _settings(run: Run) -> Settings:
    cell = {name: str(value) for name, value in asdict(run.cell).items() if value not in ("", 0)}
    told = {name: value for name, value in Scale.of(run).told if name != "data"}
    return tuple({**cell, **told}.items())
