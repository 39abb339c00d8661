"""The paper's figures: the runs that each is drawn from, and the drawing as PNG and PDF.

They are to be read in print and by colour-blind readers.
"""

import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, MultipleLocator

from fglight.log_names import COSINE
from fglight.paper.figures import Curve, Figure, Panel
from fglight.report.results import FULL, Results, Scale, trained_as
from fglight.runs.collect import Run
from fglight.runs.logged import along_training, by_epoch
from fglight.text import counted

# Okabe and Ito's colours; those of Figures 3 and 6 are the paper's red, blue, green and purple.
STYLES: dict[str, tuple[str, str]] = {
    "End-to-end": ("#D55E00", "o"),
    "Local learning": ("#E69F00", "D"),
    "Local guess": ("#0072B2", "s"),
    "Local guess, global target": ("#0072B2", "s"),
    "NTK guess": ("#009E73", "^"),
    "Random (Gaussian) guess": ("#CC79A7", "v"),
    "Gaussian guess, global target": ("#CC79A7", "v"),
    "Gaussian guess, local target": ("#000000", "P"),
    "CNN": ("#0072B2", "s"),
    "MLP": ("#E69F00", "D"),
    "Linear": ("#009E73", "^"),
}

STYLE: Any = {
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.labelsize": 9,
    "legend.fontsize": 8,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.3,
    "pdf.fonttype": 42,
}

_DASHES: Any = (0, (4, 2))

Drawing = Mapping[str, bytes]
"""A figure's files, ``png`` and ``pdf``."""


@dataclass(frozen=True)
class Line:
    """One line in a panel: ``values`` has a column for each seed over the panel's horizontal axis."""

    label: str
    values: pd.DataFrame
    dashed: bool = False


@dataclass(frozen=True)
class Plot:
    """A figure ready to be drawn.

    Attributes:
        figure: what the paper shows.
        scale: what was trained, and how; all runs of a figure share it.
        lines: of each panel. Empty if no run has what the figure needs.
        missing: what cannot be drawn, and why.
    """

    figure: Figure
    scale: Scale = FULL
    lines: Mapping[Panel, tuple[Line, ...]] = field(default_factory=dict)
    missing: tuple[str, ...] = ()


def plot(figure: Figure, results: Results) -> Plot:
    """Choose the runs of a figure, and what is drawn of them.

    Full-scale runs are shown if there is one; otherwise those of the one scale and width that cover most curves, and
    among several of these the nearest to the paper's.
    """
    found = {}
    for scale, cells in results.runs.items():
        for width in results.widths(scale):
            runs = {curve: cells.get(trained_as(curve.cell, scale, width), []) for curve in figure.curves}
            found[scale.with_width(width)] = _choose(figure, runs)
    drawable = [scale for scale, (drawn, _) in found.items() if drawn]
    if not drawable:
        missing = min(
            (missing for _, missing in found.values()), key=lambda why: sum(": not run" in one for one in why)
        )
        return Plot(figure, missing=missing)
    scale = min(drawable, key=lambda scale: (scale != FULL, -len(found[scale][0]), scale.distance))
    drawn, missing = found[scale]
    lines = {panel: tuple(_lines(panel, drawn)) for row in figure.panels for panel in row}
    return Plot(figure, scale, lines, missing)


def _choose(
    figure: Figure, runs: Mapping[Curve, Sequence[Run]]
) -> tuple[dict[Curve, list[pd.DataFrame]], tuple[str, ...]]:
    """What the runs of each curve that can be drawn have logged, and which cannot be, and why."""
    drawn: dict[Curve, list[pd.DataFrame]] = {}
    missing = []
    for curve in figure.curves:
        of_curve = [run for run in runs[curve] if curve.probe in ("", run.probe)]
        complete = {run.seed: run.metrics for run in of_curve if not _absent(run, figure)}
        if complete:
            drawn[curve] = list(complete.values())
        elif of_curve:
            missing.append(f"{curve.label}: run without {_absent(of_curve[0], figure)[0]}")
        else:
            how = f" with probe=true aux={curve.probe}" if curve.probe else ""
            missing.append(f"{curve.label}: not run{how}")
    return drawn, tuple(missing)


def _absent(run: Run, figure: Figure) -> list[str]:
    return [name for name in figure.metrics if name not in run.metrics or run.metrics[name].isna().all()]


def _lines(panel: Panel, drawn: Mapping[Curve, Sequence[pd.DataFrame]]) -> Iterator[Line]:
    for curve, seeds in drawn.items():
        if panel.x == "Block":
            ends = [[by_epoch(seed, name).iloc[-1] for name in panel.metrics] for seed in seeds]
            yield Line(curve.label, pd.DataFrame(ends).T)
        else:
            for number, name in enumerate(panel.metrics):
                over_epochs = along_training if name.startswith(COSINE) else by_epoch  # the one is logged by steps
                values = pd.concat([over_epochs(seed, name) for seed in seeds], axis=1, keys=range(len(seeds)))
                yield Line(curve.label, values.sort_index(), dashed=number > 0)


@mpl.rc_context(STYLE)
def compose(plot: Plot) -> Canvas:
    """Lay out a figure's panels with one legend for all, at most 7 inches wide (the width of a page's text)."""
    panels = plot.figure.panels
    columns = len(panels[0])
    size = (6.0 if columns == 1 else 7.0, 1.2 + 2.1 * len(panels) + (0.4 if columns == 1 else 0))
    canvas = Canvas(figsize=size, layout="constrained")
    axes = canvas.subplots(len(panels), columns, squeeze=False)
    epochs = max((line.values.index.max() for lines in plot.lines.values() for line in lines), default=1)
    for row, of_row in zip(panels, axes):
        for panel, ax in zip(row, of_row):
            _draw_panel(ax, plot.lines[panel])
            ax.set(title=panel.title, xlabel=panel.x, ylabel=panel.y if panel == row[0] else "")
            ax.xaxis.set_major_locator(MultipleLocator(1) if panel.x == "Block" else MaxNLocator(integer=True, nbins=6))
            if panel.x == "Epoch":
                ax.set_xlim(0, 1.03 * epochs)  # all panels alike, and no fractions where there are one or two epochs
    handles, _ = axes[0, 0].get_legend_handles_labels()
    if any(line.dashed for line in plot.lines[panels[0][0]]):
        grey: dict[str, Any] = {"color": "0.4", "marker": "o", "markersize": 3.5}
        handles.append(Line2D([], [], **grey, label="train"))
        handles.append(Line2D([], [], **grey, markerfacecolor="white", linestyle=_DASHES, label="test"))
    canvas.legend(
        handles=handles, loc="outside lower center", ncols=5 if columns == 3 else 2, frameon=False, handlelength=2.8
    )
    if note := _note(plot):
        canvas.suptitle(note, fontsize=8, style="italic", wrap=True)
    return canvas


@mpl.rc_context(STYLE)
def saved(canvas: Canvas, dpi: int = 200) -> Drawing:
    """The files of what was drawn."""
    files = {name: io.BytesIO() for name in ("png", "pdf")}
    canvas.savefig(files["png"], format="png", dpi=dpi)
    canvas.savefig(files["pdf"], format="pdf", metadata={"CreationDate": None})
    return {name: file.getvalue() for name, file in files.items()}


def _draw_panel(ax: Axes, lines: Sequence[Line]) -> None:
    for index, line in enumerate(lines):
        colour, marker = STYLES[line.label]
        mean, std = line.values.mean(axis=1), line.values.std(axis=1)
        x = mean.index.to_numpy(dtype=float)
        apart = max(1, len(x) // 8) if len(x) > 16 else 1
        ax.plot(
            x,
            mean.to_numpy(),
            label=None if line.dashed else f"{line.label} ({counted(line.values.shape[1], 'seed')})",
            color=colour,
            marker=marker,
            markersize=3.5,
            markerfacecolor="white" if line.dashed else colour,  # one epoch is a marker without a line
            markevery=(index * apart // len(lines), apart),
            linewidth=1.2,
            linestyle=_DASHES if line.dashed else "-",
        )
        if line.values.shape[1] > 1:
            band = np.nan_to_num(std.to_numpy())
            ax.fill_between(x, mean - band, mean + band, color=colour, alpha=0.2, linewidth=0)


def _note(plot: Plot) -> str:
    """What a reader must know who sees the image alone."""
    scaled = "" if plot.scale == FULL else f"Scaled down: {plot.scale}."
    missing = f"Missing: {'; '.join(name.split(':')[0] for name in plot.missing)}." if plot.missing else ""
    return " ".join(part for part in (scaled, missing) if part)
