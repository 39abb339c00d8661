"""Made-up runs of a study's estimators."""

from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd
from written_runs import write_metrics, write_run

from fglight.config import compose
from fglight.report.estimators import Filled, fill
from fglight.runs.collect import collect
from fglight.runs.record import build_result
from fglight.runs.settings import RunFacts
from fglight.studies import STUDIES

GUESS, SAME, FROZEN = "Local guess, CNN, weight", "Local learning, CNN", "Frozen blocks"
OVERRIDES = {row.label: row.overrides for study in STUDIES.values() for row in study.rows}
STEPS, BLOCKS = 20, 3


def measured(target: float = 2.0, estimate: float = 1.0, alignment: float = 0.5) -> pd.DataFrame:
    """Metrics of a run that was measured every second step; the loss falls by the number of the block."""
    every = {"target": target, "estimate": estimate, "alignment": alignment}
    return pd.DataFrame(
        {"epoch": 0, "step": step}
        | {f"{name}/block{j}": value for name, value in every.items() for j in range(BLOCKS)}
        | {f"decrease/block{j}": j for j in range(BLOCKS)}
        for step in range(1, STEPS, 2)
    )


@dataclass
class Runs:
    """Made-up runs of a study's estimators in one folder."""

    folder: Path
    written: int = field(default=0)

    def add(self, label: str, accuracy: float, seed: int = 0, lr: float = 0.05, logged=None, *, held_out=False):
        settings = [f"seed={seed}", f"optim.lr={lr}", *(["data.holdout=0.1"] if held_out else [])]
        cfg = compose([*OVERRIDES[label].split(), *settings])
        metrics = {"accuracy": accuracy, "loss": 1}
        end = {f"{split}/{name}": value for split in ("train", "test") for name, value in metrics.items()}
        words = build_result(RunFacts.of(cfg), epochs_done=1, steps=5, metrics=end, seconds=1.0, device="cpu")
        run = write_run(self.folder / f"run{self.written}", words)
        if logged is not None:
            write_metrics(run, logged)
        self.written += 1

    def filled(self, study: str = "guesses") -> Filled:
        (filled,) = fill(STUDIES[study], collect([self.folder]).finished)
        return filled


def line(filled: Filled, label: str):
    return next(line for line in filled.lines if line.row.label == label)
