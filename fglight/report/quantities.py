"""What claims compare, from the runs of one cell and scale."""

import pandas as pd

from fglight.paper.claims import ACCURACY, Quantity
from fglight.report.metrics import ReadMetrics
from fglight.report.scores import Scale, Score, Scores
from fglight.runs.collect import Run


def measure(quantity: Quantity, scale: Scale, scores: Scores, read: ReadMetrics) -> Score | None:
    """A quantity over the seeds of the runs of one cell and scale; None where no run has it.

    Args:
        quantity: what is measured; accuracies are in points, all else in the units that it is logged in.
        scale: what it was trained on, and how.
        scores: the finished runs.
        read: gives a run directory's metrics, as ``read_metrics`` does.
    """
    if quantity.metric == ACCURACY:
        return scores.by_scale[scale].get(quantity.cell)
    values: dict[int, tuple[Run, float]] = {}
    for run in scores.all_runs.get((scale, quantity.cell), []):
        if quantity.probe in ("", run.probe) and run.seed not in values:
            value = _value(read(run.path), quantity)
            if value is not None:
                values[run.seed] = run, value
    return Score(*map(tuple, zip(*values.values()))) if values else None


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
