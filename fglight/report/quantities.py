"""What claims compare, from the runs of one cell and setting."""

from collections.abc import Callable

import pandas as pd

from fglight.paper.claims import ACCURACY, Quantity
from fglight.report.metrics import ReadMetrics
from fglight.report.scores import Score, Scores, Setting
from fglight.runs.collect import Run

Measure = Callable[[Quantity], Score | None]
"""A quantity over the seeds, None where no run has it."""


def measure(quantity: Quantity, setting: Setting, scores: Scores, read: ReadMetrics) -> Score | None:
    """A quantity over the seeds of the runs of one setting.

    Args:
        quantity: what is measured; accuracies are in points, all else in the units that it is logged in.
        setting: what sets the runs apart from the paper's.
        scores: the finished runs.
        read: gives a run directory's metrics, as ``read_metrics`` does.
    """
    if quantity.metric == ACCURACY:
        return scores.by_cell.get(quantity.cell, {}).get(setting)
    values: dict[int, tuple[Run, float]] = {}
    for run in scores.runs(quantity.cell, setting):
        if quantity.probe in ("", run.probe) and run.seed not in values:
            value = _value(read(run.path), quantity)
            if value is not None:
                values[run.seed] = run, value
    return Score.of(*zip(*values.values())) if values else None


def _value(metrics: pd.DataFrame, quantity: Quantity) -> float | None:
    if quantity.metric not in metrics:
        return None
    logged = metrics.dropna(subset=[quantity.metric])
    if quantity.period is None:
        part = logged.tail(1)
    else:
        done = (logged["step"] + 0.5) / (metrics["step"].max() + 1)
        part = logged[done.between(*quantity.period)]
    return float(part[quantity.metric].mean()) if len(part) else None
