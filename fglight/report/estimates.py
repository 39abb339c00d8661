"""What estimates are like beside the exact gradient, by block and over training."""

from collections.abc import Mapping
from dataclasses import dataclass

import pandas as pd

from fglight.report.metrics import ReadMetrics
from fglight.report.studies import Filled

PARTS = 10
"""Into how many equal parts training is divided."""

MEASURES = {
    "alignment": "cosine with the gradient",
    "length": "length, in gradients' lengths",
    "decrease": "fall of the loss by a step of it",
}
"""What is shown, in words; ``length`` is the norm of the estimate over that of the exact gradient."""


@dataclass(frozen=True)
class Estimates:
    """Means over the seeds of every estimator of a study, by its label; NaN where a block is not trained.

    Attributes:
        by_block: for each of ``MEASURES`` a mean over training, estimators by blocks 0..J-2.
        over_training: for each of them a mean over blocks, estimators by parts of training from 0 to ``PARTS - 1``.
    """

    by_block: Mapping[str, pd.DataFrame]
    over_training: Mapping[str, pd.DataFrame]


def estimates(filled: Filled, read: ReadMetrics) -> Estimates | None:
    """What runs with ``measure=true`` have logged; None where none of the study's has.

    Args:
        filled: a study at one scale.
        read: gives a run directory's metrics, as ``read_metrics`` does.
    """
    measured: dict[str, pd.DataFrame] = {}
    for line in filled.lines:
        found = [_measures(read(run.path)) for run in (line.score.runs if line.score else ())]
        if logged := [frame for frame in found if frame is not None]:
            measured[line.row.label] = pd.concat(logged)
    if not measured:
        return None

    def by(level: str) -> dict[str, pd.DataFrame]:
        return {
            name: pd.DataFrame({label: frame[name].groupby(level=level).mean() for label, frame in measured.items()}).T
            for name in MEASURES
        }

    return Estimates(by("block"), by("part"))


def _measures(metrics: pd.DataFrame) -> pd.DataFrame | None:
    """``MEASURES`` of one run, by the part of training and the block; None where it was not measured."""
    names = ("alignment", "target", "estimate", "decrease")
    logged = {name: metrics.filter(regex=rf"^{name}/block\d+$") for name in names}
    if any(frame.empty for frame in logged.values()):
        return None
    part = (metrics["step"] * PARTS // (metrics["step"].max() + 1)).astype(int)
    for name, frame in logged.items():
        frame.columns = [int(column.removeprefix(f"{name}/block")) for column in frame.columns]
        logged[name] = frame.groupby(part).mean().stack()
    found = pd.DataFrame(logged).rename_axis(["part", "block"])
    trained = found["estimate"] > 0
    found["length"] = (found["estimate"] / found["target"]).where(trained)
    found["decrease"] = found["decrease"].where(trained)
    return found[[*MEASURES]]
