"""What a run leaves behind: ``result.json`` or ``failure.json``, and a summary on the terminal."""

import os
import platform
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from rich.table import Table

from fglight import __version__
from fglight.cell import cell_of
from fglight.log_names import of_split
from fglight.runs.settings import RunFacts, in_short
from fglight.text import counted, measured

RECIPE = {
    "lr": "optim.lr",
    "lr_step": "scheduler.step_size",
    "lr_gamma": "scheduler.gamma",
    "epochs": "trainer.max_epochs",
    "batch_size": "data.batch_size",
    "momentum": "optim.momentum",
    "weight_decay": "optim.weight_decay",
}
"""What a record has of a run's training, and the settings that it is; None where the run has no such setting."""


def metric_names(cfg: DictConfig) -> list[str]:
    """What a run logs of outputs and labels; the first is its result."""
    return [*cfg.loss.metrics, "loss"]


def judged_on(holdout: float | None) -> str:
    """What people see a run judged on: ``data.holdout`` puts training images in the place of those for testing.

    Metrics and results on disk are called ``test`` either way.
    """
    return "held-out" if holdout else "test"


def build_result(
    facts: RunFacts,
    *,
    epochs_done: int,
    steps: int,
    metrics: dict[str, float],
    seconds: float,
    device: str,
    before: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """What ``result.json`` holds of a finished run.

    Args:
        facts: those of the run.
        epochs_done: how many epochs were trained, the last of them perhaps in part.
        steps: how many steps were taken.
        metrics: the last epoch's, by the names they are logged under.
        seconds: wall-clock time of training and testing.
        device: what it ran on, in words.
        before: the result of the run when it had fewer epochs to train, where it went on from there.
    """
    cfg = facts.cfg
    names = metric_names(cfg)
    return {
        **facts.named,
        "recipe": {name: OmegaConf.select(cfg, setting) for name, setting in RECIPE.items()},
        "differences": facts.differences,
        "probe": cfg.aux.name if cfg.probe else "",
        "epoch": epochs_done - 1,
        "steps": steps,
        **({} if before is None else {"extended_from": [*before.get("extended_from", []), before["recipe"]["epochs"]]}),
        "metric": names[0],
        "classes": cfg.data.num_classes,
        **{f"{split}_{name}": metrics[of_split(split, name)] for split in ("test", "train") for name in names},
        "time_s": round(seconds, 2),
        "device": device,
        "versions": {
            "python": platform.python_version(),
            "fglight": __version__,
            **{package: version(package) for package in ("torch", "lightning")},
        },
    }


def summary(result: dict[str, Any], run_dir: Path) -> Table:
    """A finished run in a few lines, for the terminal."""
    recipe = result["recipe"]
    table = Table(show_header=False, title=f"{cell_of(result['cell'])}, seed {result['seed']}", title_justify="left")
    table.add_column()
    table.add_column(overflow="fold")
    metric = result["metric"]
    judged = judged_on(result["differences"].get("data.holdout"))
    table.add_row(f"{judged} {metric}", f"[bold]{measured(metric, result[f'test_{metric}'])}[/bold]")
    table.add_row(f"train {metric}", measured(metric, result[f"train_{metric}"]))
    table.add_row("time", f"{result['time_s']:.0f} s on {result['device']}")
    schedule = [] if recipe["lr"] is None else [f"{recipe['lr']:g}"]
    if recipe["lr_step"] is not None and recipe["lr_gamma"] is not None:
        schedule.append(f"times {recipe['lr_gamma']:g} every {counted(recipe['lr_step'], 'epoch')}")
    table.add_row("learning rate", ", ".join([*schedule, counted(recipe["epochs"], "epoch")]))
    planned = "" if "trainer.max_forwards" in result["differences"] else f" of {recipe['epochs']}"
    table.add_row("trained", f"{counted(result['steps'], 'step')}, to epoch {result['epoch'] + 1}{planned}")
    if extended := result.get("extended_from"):
        table.add_row("extended from", " and ".join(counted(epochs, "epoch") for epochs in extended))
    for setting, value in in_short(result["differences"]).items():
        table.add_row(setting, str(value))
    table.add_row("run directory", os.path.relpath(run_dir))
    return table
