"""A look at the method in a few minutes: six cells trained on digits in several seeds, side by side."""

from argparse import ArgumentParser
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from statistics import mean, stdev

from hydra.errors import HydraException
from rich.console import Console
from rich.table import Table

from fglight.cell import Cell
from fglight.errors import FglightError
from fglight.runs.folder import make_directory
from fglight.runs.record import judged_on, metric_names

CELLS = [
    ("end-to-end backpropagation", ["guess=exact"]),
    ("local guess, weight", ["guess=local", "perturb=weight"]),
    ("local guess, activity", ["guess=local", "perturb=activity"]),
    ("gaussian guess, weight", ["guess=gaussian", "perturb=weight"]),
    ("gaussian guess, activity", ["guess=gaussian", "perturb=activity"]),
    ("control: blocks left untrained", ["guess=frozen"]),
]
SEEDS = range(2)
SPLITS = ("test", "train")
DEFAULTS = ["target=global", "model.width=0.5", "trainer.max_epochs=5", "logger.mode=disabled"]
STEP = "scheduler.step_size=2"
"""The recipe's, shrunk with the epochs."""


def main(arguments: Sequence[str]) -> int:
    """Train the cells and print one table; returns the exit status."""
    parser = ArgumentParser("fglight demo", description=__doc__)
    parser.add_argument("overrides", nargs="*", help="settings of all cells, such as model.width=0.125")
    overrides = parser.parse_intermixed_args(arguments).overrides
    if taken := [text for text in overrides if text.startswith(("seed=", "check="))]:
        parser.error(f"settings must be such as all runs share, got {taken[0]}")
    step = [] if any(text.startswith("scheduler=") for text in overrides) else [STEP]
    from fglight.build import load_config  # load torch
    from fglight.training.run import train

    console = Console()
    title = f"ResNet-18 in 8 blocks, global target: mean ± deviation of {len(SEEDS)} seeds"
    try:
        configurations = [
            (name, [load_config([*DEFAULTS, *step, *cell, *overrides, f"seed={seed}"]) for seed in SEEDS])
            for name, cell in CELLS
        ]
        folder = make_directory("folder", Path("outputs", f"demo_{datetime.now():%Y-%m-%d_%H-%M-%S}"), new=True)
        metric = metric_names(configurations[0][1][0])[0]
        judged = judged_on(configurations[0][1][0].data.get("holdout"))
        table = Table("cell", f"{judged} {metric}", f"train {metric}", "time each", title=title)
        for name, cfgs in configurations:
            results = [train(cfg, folder / str(Cell.from_config(cfg)) / f"seed{cfg.seed}") for cfg in cfgs]
            scores = (_over_seeds(metric, [result[f"{split}_{metric}"] for result in results]) for split in SPLITS)
            table.add_row(name, *scores, f"{mean(result['time_s'] for result in results):.0f} s")
    except (FglightError, HydraException) as error:
        Console(stderr=True).print(f"error: {error}", style="bold red")
        return 1
    console.print(table)
    console.print(f"Runs: {folder}. All settings: fglight train --help")
    return 0


def _over_seeds(metric: str, values: list[float]) -> str:
    if metric == "accuracy":
        return f"{100 * mean(values):.1f} ± {100 * stdev(values):.1f} %"
    return f"{mean(values):.3g} ± {stdev(values):.2g}"
