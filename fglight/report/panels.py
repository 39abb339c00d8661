"""The numbers behind Figures 2 to 9: which runs a figure shows and what each of its panels plots."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pandas as pd

from fglight.paper.figures import Curve, Figure, depth_metrics
from fglight.report.metrics import ReadMetrics, along_training, by_epoch
from fglight.report.scores import FULL, Scale, Scores, trained_as, with_width
from fglight.runs.collect import Run


@dataclass(frozen=True)
class Line:
    """One curve in a panel: ``values`` has a column for each seed over the panel's horizontal axis."""

    label: str
    values: pd.DataFrame
    dashed: bool = False


@dataclass(frozen=True)
class Panel:
    """One pair of axes, with the words on them."""

    title: str
    x: str
    y: str
    lines: tuple[Line, ...]


@dataclass(frozen=True)
class Plot:
    """A figure ready to be drawn.

    Attributes:
        figure: what the paper shows.
        scale: what was trained, and how; all runs of a figure share it.
        rows: panels, row by row. Empty if no run has what the figure needs.
        missing: what cannot be drawn, and why.
    """

    figure: Figure
    scale: Scale = FULL
    rows: tuple[tuple[Panel, ...], ...] = ()
    missing: tuple[str, ...] = ()


@dataclass
class _Chosen:
    """The runs of one scale that can be drawn, with their metrics, and the curves that have none."""

    drawn: dict[Curve, list[pd.DataFrame]] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    not_run: int = 0


def plot(figure: Figure, scores: Scores, read: ReadMetrics) -> Plot:
    """Choose the runs of a figure and lay out its panels.

    Full-scale runs are shown if there is one; otherwise those of the one scale and width that cover most curves, and
    among several of these the nearest to the paper's.

    Args:
        figure: one of the paper's figures.
        scores: the finished runs.
        read: gives a run directory's metrics, as ``read_metrics`` does.

    Returns:
        The panels, or none where no run has logged what the figure needs.
    """
    choices = {
        with_width(scale, width): _choose(figure, _runs(figure, scale, width, scores), read)
        for scale, width in scores.sizes
    }
    drawable = [scale for scale, chosen in choices.items() if chosen.drawn]
    if not drawable:
        fullest = min(choices.values(), key=lambda chosen: chosen.not_run)
        return Plot(figure, missing=tuple(fullest.missing))
    scale = min(drawable, key=lambda scale: (scale != FULL, -len(choices[scale].drawn), *_distance(scale)))
    layout = {"depth": _depth, "losses": _losses, "dynamics": _dynamics}[figure.kind]
    return Plot(figure, scale, layout(figure, choices[scale].drawn), tuple(choices[scale].missing))


def _runs(figure: Figure, scale: Scale, width: float, scores: Scores) -> dict[Curve, list[Run]]:
    """The runs of each curve at a scale and width."""
    cells = {curve: trained_as(curve.cell, scale, width) for curve in figure.curves}
    return {curve: scores.all_runs.get((scale, cell), []) for curve, cell in cells.items()}


def _distance(scale: Scale) -> tuple[int, float, Scale]:
    """How far a scale is from the paper's: by what differs first, then by how much shorter it trains."""
    return len(scale), -float(dict(scale).get("epochs", "inf")), scale


def needed_columns(figure: Figure, curve: Curve) -> list[str]:
    """The columns of the metrics that a curve cannot be drawn without."""
    if figure.kind == "depth":
        return depth_metrics(curve.cell.blocks)
    if figure.kind == "losses":
        return ["train/loss", "test/loss"]
    names = ("train/local_loss", "test/local_loss", "cosine")
    return [f"{name}/block{j}" for name in names for j in figure.blocks]


def _choose(figure: Figure, runs: Mapping[Curve, Sequence[Run]], read: ReadMetrics) -> _Chosen:
    chosen = _Chosen()
    for curve in figure.curves:
        needed = needed_columns(figure, curve)
        metrics = [(run.seed, read(run.path)) for run in runs[curve] if curve.probe in ("", run.probe)]
        complete = {seed: found for seed, found in metrics if not _absent(found, needed)}
        if complete:
            chosen.drawn[curve] = list(complete.values())
        elif metrics:
            chosen.missing.append(f"{curve.label}: run without {_absent(metrics[0][1], needed)[0]}")
        else:
            how = f" with probe=true aux={curve.probe}" if curve.probe else ""
            chosen.missing.append(f"{curve.label}: not run{how}")
            chosen.not_run += 1
    return chosen


def _absent(metrics: pd.DataFrame, needed: list[str]) -> list[str]:
    return [column for column in needed if column not in metrics or metrics[column].isna().all()]


def _over_seeds(label: str, seeds: Sequence[pd.Series], dashed: bool = False) -> Line:
    return Line(label, pd.concat(list(seeds), axis=1, keys=range(len(seeds))).sort_index(), dashed)


def _depth(figure: Figure, drawn: dict[Curve, list[pd.DataFrame]]) -> tuple[tuple[Panel, ...], ...]:
    """Figures 2 and 7: the train loss after the last epoch, by block."""

    def last(curve: Curve, metrics: pd.DataFrame) -> pd.Series:
        return pd.Series([by_epoch(metrics, column).iloc[-1] for column in needed_columns(figure, curve)])

    lines = (_over_seeds(curve.label, [last(curve, seed) for seed in seeds]) for curve, seeds in drawn.items())
    return ((Panel("", "Block", "Local train loss (nats)", tuple(lines)),),)


def _losses(figure: Figure, drawn: dict[Curve, list[pd.DataFrame]]) -> tuple[tuple[Panel, ...], ...]:
    """Figures 3 and 6: the network's loss by epoch."""
    panels = [
        Panel(
            f"{split.capitalize()} loss",
            "Epoch",
            "Cross-entropy (nats)",
            tuple(
                _over_seeds(curve.label, [by_epoch(seed, f"{split}/loss") for seed in seeds])
                for curve, seeds in drawn.items()
            ),
        )
        for split in ("train", "test")
    ]
    return (tuple(panels),)


def _dynamics(figure: Figure, drawn: dict[Curve, list[pd.DataFrame]]) -> tuple[tuple[Panel, ...], ...]:
    """Figures 4, 5, 8 and 9: local losses above, cosine similarity (Eq. 6) below, a column for each block."""
    losses = [
        Panel(
            f"Block {j}",
            "Epoch",
            "Local loss (nats)",
            tuple(
                _over_seeds(curve.label, [by_epoch(seed, f"{split}/local_loss/block{j}") for seed in seeds], dashed)
                for curve, seeds in drawn.items()
                for split, dashed in (("train", False), ("test", True))
            ),
        )
        for j in figure.blocks
    ]
    cosines = [
        Panel(
            f"Block {j}",
            "Epoch",
            "Cosine similarity",
            tuple(
                _over_seeds(curve.label, [along_training(seed, f"cosine/block{j}") for seed in seeds])
                for curve, seeds in drawn.items()
            ),
        )
        for j in figure.blocks
    ]
    return tuple(losses), tuple(cosines)
