"""What a sweep would run, and how long that takes on this machine."""

import json
import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from omegaconf import DictConfig
from rich.console import Console
from rich.progress import track
from rich.table import Table

from fglight.build import build_data
from fglight.runs.folder import State
from fglight.runs.settings import run_settings
from fglight.sweeps.costs import Kind, Steps, Times, device_of
from fglight.sweeps.jobs import Job, by_name, in_words
from fglight.sweeps.progress import duration
from fglight.text import counted


def show_plan(
    jobs: Sequence[Job],
    configs: Mapping[str, DictConfig],
    states: Mapping[Job, State],
    ended: Collection[State] = (State.FINISHED,),
) -> None:
    """Print what would run, how much of it is done, and how long the rest takes on this machine.

    Args:
        jobs: the runs.
        configs: their configurations, by name.
        states: how far each has come.
        ended: the states of runs that are not to be done.
    """
    rows = []
    title, words = in_words(jobs)
    for name, group in by_name(jobs).items():
        left = sum(states[job] not in (*ended, State.RUNNING) for job in group)
        counts = Counter(str(states[job]) for job in group)
        todo = ", ".join(f"{number} {state}" for state, number in counts.items())
        rows.append(Row(words[name], configs[name], left, ",".join(str(job.seed) for job in group), todo))
    show(rows, f"{counted(len(rows), 'cell')}, {counted(len(jobs), 'run')}", title)


def show_ordinary(configs: Mapping[str, DictConfig]) -> None:
    """Print what an ordinary sweep would run, and for how long.

    Args:
        configs: of all runs, by their overrides.
    """
    alike: dict[str, list[str]] = {}
    for name, cfg in configs.items():
        alike.setdefault(json.dumps({**run_settings(cfg), "seed": None, "logger": None}, sort_keys=True), []).append(
            name
        )
    rows = [
        Row(
            " ".join(part for part in names[0].split(" ") if not part.startswith("seed=")) or "defaults",
            configs[names[0]],
            len(names),
            ",".join(str(configs[name].seed) for name in names),
            f"{len(names)} {State.NEW}",
        )
        for names in alike.values()
    ]
    show(rows, f"{counted(len(rows), 'configuration')}, {counted(len(configs), 'run')}")


@dataclass(frozen=True)
class Row:
    """A line of a plan: runs of the same configuration.

    Attributes:
        name: of the configuration, for people.
        cfg: the configuration.
        left: how many runs of it are to do.
        seeds: of the runs.
        todo: how far they are.
    """

    name: str
    cfg: DictConfig
    left: int
    seeds: str
    todo: str


def show(rows: Sequence[Row], count: str, title: str = "") -> None:
    """Print a plan.

    Args:
        rows: its lines.
        count: how many runs there are, in words.
        title: of the table.
    """
    console, steps = Console(), Steps()
    kinds = [Kind.of(row.cfg) for row in rows]
    print(f"{count}: estimating {counted(len(set(kinds)), 'kind')} of step", flush=True)
    watched = track(set(kinds), "estimating", transient=True, disable=not console.is_terminal)
    times = {kind: steps.times(kind) for kind in watched}
    table = Table(title=title)
    table.add_column("runs", overflow="fold")
    for column in ("seeds", "to do", "lr", "epochs", "time each"):
        table.add_column(column, no_wrap=column != "to do")
    total = 0.0
    for kind, row in zip(kinds, rows):
        each = run_seconds(row.cfg, times[kind])
        total += row.left * each
        lr, epochs = f"{row.cfg.optim.lr:g}", str(row.cfg.trainer.max_epochs)
        table.add_row(row.name, row.seeds, row.todo, lr, epochs, duration(each))
    console.print(table)
    left = sum(row.left for row in rows)
    print(
        f"{count}, {left} of them to do: about {duration(total)} one after the other on {device_of(rows[0].cfg).type}, "
        "from a timed step of backpropagation on each network and what estimators compute beside it. Nothing was "
        "started."
    )


def run_seconds(cfg: DictConfig, times: Times) -> float:
    """How long a run takes: all its steps, and a test after each epoch."""
    trainer = cfg.trainer
    train_batches, test_batches = _batches(cfg)
    if trainer.get("fast_dev_run"):  # true is one
        count = int(trainer.fast_dev_run)
        return count * (times.training + times.testing)
    steps = _limited(train_batches, trainer.get("limit_train_batches"))
    total = trainer.max_epochs * steps
    if (trainer.get("max_steps") or -1) > 0:
        total = min(total, trainer.max_steps)
    if trainer.get("max_forwards"):
        total = trainer.max_forwards * times.testing / times.training
    tests = math.ceil(total / steps) * _limited(test_batches, trainer.get("limit_val_batches"))
    return total * times.training + tests * times.testing


def _batches(cfg: DictConfig) -> tuple[float, float]:
    """How many batches there are of training and of testing; only a data set that does not say is looked at."""
    if "images" not in cfg.data:
        data = build_data(cfg)
        data.prepare_data()
        data.setup("fit")
        return len(data.train_dataloader()), len(data.val_dataloader())
    training, testing = cfg.data.images
    training = cfg.data.get("train_images") or training
    if cfg.data.get("holdout"):
        training, testing = training * (1 - cfg.data.holdout), training * cfg.data.holdout
    return training / cfg.data.batch_size, testing / cfg.data.batch_size


def _limited(batches: float, limit: float | None) -> float:
    """How many batches an epoch has: a number of them at most, or a fraction."""
    if limit is None:
        return batches
    return min(batches, limit) if isinstance(limit, int) else batches * limit
