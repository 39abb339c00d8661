"""A look at the method in a few minutes: five cells trained on digits, side by side.

python -m fglight.demo [Hydra overrides for all cells]
"""

import sys
from datetime import datetime
from pathlib import Path

from hydra.errors import HydraException
from rich.console import Console
from rich.table import Table

from fglight import load_config
from fglight.cell import Cell
from fglight.errors import FglightError
from fglight.processes import terminable
from fglight.runs.folder import make_directory
from fglight.training.run import train

CELLS = [
    ("end-to-end backpropagation", ["guess=exact"]),
    ("local guess, weight", ["guess=local", "perturb=weight"]),
    ("local guess, activity", ["guess=local", "perturb=activity"]),
    ("gaussian guess, weight", ["guess=gaussian", "perturb=weight"]),
    ("gaussian guess, activity", ["guess=gaussian", "perturb=activity"]),
]
DEFAULTS = ["target=global", "model.width=0.5", "logger.mode=disabled"]


def main(overrides: list[str]) -> int:
    """Train the cells and print one table; returns the exit status."""
    console = Console()
    table = Table("cell", "test accuracy", "train accuracy", "time", title="ResNet-18 in 8 blocks, global target")
    try:
        configurations = [(name, load_config([*DEFAULTS, *cell, *overrides])) for name, cell in CELLS]
        folder = make_directory("folder", Path("outputs", f"demo_{datetime.now():%Y-%m-%d_%H-%M-%S}"), new=True)
        for name, cfg in configurations:
            result = train(cfg, folder / str(Cell.from_config(cfg)))
            accuracies = (f"{100 * result[f'{split}_accuracy']:.1f} %" for split in ("test", "train"))
            table.add_row(name, *accuracies, f"{result['time_s']:.0f} s")
    except (FglightError, HydraException) as error:
        Console(stderr=True).print(f"error: {error}", style="bold red")
        return 1
    console.print(table)
    console.print(f"Runs: {folder}. All settings: python train.py --help")
    return 0


if __name__ == "__main__":
    with terminable():
        sys.exit(main(sys.argv[1:]))
