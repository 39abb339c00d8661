"""Run directories as training leaves them, made up."""

import json
from copy import deepcopy
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
from omegaconf import OmegaConf

from fglight.cell import Cell, cell_of
from fglight.paper import rows_by_cell
from fglight.paper.protocol import protocol
from fglight.paper.recipes import nearest
from fglight.paper.recipes import recipe as paper_recipe
from fglight.report.results import Results, sort_runs
from fglight.runs.collect import collect
from fglight.runs.record import RECIPE, build_result
from fglight.runs.settings import RunFacts

ROWS = rows_by_cell()


def cell(words: str) -> Cell:
    """``cifar10 8 1 global local cnn weight`` as a cell; ``-`` stands for an empty part."""
    parts = [part.replace("-", "") for part in words.split()]
    return cell_of(dict(zip(("data", "blocks", "width", "target", "guess", "aux", "perturb"), parts)))


def recipe(like: Cell, **changes: float) -> dict[str, float]:
    """The paper's recipe with changes; the schedule shrinks with the epochs."""
    how = paper_recipe(like)
    paper = {name: getattr(how, name) for name in ("lr", "lr_step", "lr_gamma", "epochs")}
    if "epochs" in changes:
        paper["lr_step"] = max(1, round(how.lr_step * changes["epochs"] / how.epochs))
    return {**paper, **changes}


def result(trained: Cell, accuracy: float, seed: int = 0, like: Cell | None = None, settings=None, **changes) -> dict:
    """What a run at the paper's recipe for ``like``, with changes, records of its configuration and its end."""
    ended = {"seed": seed, "test_accuracy": accuracy, "train_accuracy": min(1.0, accuracy + 0.01)}
    made = deepcopy(_result(trained, like or trained, json.dumps(settings or {}), json.dumps(changes)))
    assert made.keys() >= ended.keys()
    return made | ended


@cache
def _result(trained: Cell, like: Cell, settings: str, changes: str) -> dict:
    cfg = OmegaConf.create({**protocol(nearest(trained, random=False)), "seed": 0})
    how = recipe(like, **json.loads(changes))
    for setting, value in {**{RECIPE[name]: value for name, value in how.items()}, **json.loads(settings)}.items():
        OmegaConf.update(cfg, setting, value, force_add=True)
    metrics = {"test/accuracy": 0.5, "train/accuracy": 0.5, "test/loss": 0.5, "train/loss": 0.4}
    return build_result(
        RunFacts.of(cfg), epochs_done=how["epochs"], steps=5, metrics=metrics, seconds=12.5, device="cpu"
    )


def write_run(folder: Path, words: dict | None = None, name: str = "result.json") -> Path:
    """A run directory with a configuration and, unless ``words`` is None, its end."""
    (folder / "metrics").mkdir(parents=True)
    (folder / "config.yaml").write_text("seed: 0\n")
    if words is not None:
        (folder / name).write_text(json.dumps(words))
    return folder


def curves(blocks: int, epochs: int, seed: int = 0, steps: int = 20, local: bool = True, shift=0.0) -> pd.DataFrame:
    """Metrics as CSVLogger writes them: a cosine every fifth step, the rest in a line after each epoch."""
    rng = np.random.default_rng(seed)
    lines = []
    for epoch in range(epochs):
        decay = np.exp(-3 * (epoch + 1) / epochs)
        for step in range(epoch * steps, (epoch + 1) * steps):
            if step % 5 == 0:
                cosines = {
                    f"cosine/block{j}": 0.02 + 0.02 * j * decay + rng.normal(0, 0.003) for j in range(blocks - 1)
                }
                lines.append({"epoch": epoch, "step": step, **(cosines if local else {})})
        ends = {"train/loss": 2.3 * decay + shift, "train/accuracy": 1 - decay, "test/loss": 2 * decay + 0.4 + shift}
        ends["test/accuracy"] = 0.9 * (1 - decay)
        for j in range(blocks - 1) if local else ():
            level = shift + 1.5 * decay + 0.8 / (j + 1) + rng.normal(0, 0.02)
            ends |= {f"train/local_loss/block{j}": level, f"test/local_loss/block{j}": level + 0.2}
        lines.append({"epoch": epoch, "step": (epoch + 1) * steps - 1, **ends})
    return pd.DataFrame(lines)


def write_metrics(folder: Path, metrics: pd.DataFrame, version: int = 0) -> Path:
    path = folder / f"metrics/version_{version}/metrics.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    metrics.to_csv(path, index=False)
    return path


def results_of(folder: Path, *results: dict) -> Results:
    """Runs with these results, sorted."""
    for number, words in enumerate(results):
        write_run(folder / f"run{number}", words)
    return sort_runs(collect([folder]).finished)


LOCAL = cell("cifar10 8 1 global local cnn weight")
