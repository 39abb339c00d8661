"""Panels as PNG and PDF, to be read in print and by colour-blind readers."""

import io
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, MultipleLocator

from fglight.report.panels import Line, Panel, Plot
from fglight.report.scores import FULL, scale_in_words
from fglight.words import counted

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


@dataclass(frozen=True)
class Drawing:
    """A figure's two files; ``height`` and ``width`` are the PNG's, in pixels."""

    png: bytes
    pdf: bytes
    width: int
    height: int


@mpl.rc_context(STYLE)
def draw(plot: Plot, dpi: int = 200) -> Drawing:
    """Draw a figure and return its files."""
    return saved(compose(plot), dpi)


def saved(canvas: Canvas, dpi: int = 200) -> Drawing:
    """The files of what was drawn."""
    files = {name: io.BytesIO() for name in ("png", "pdf")}
    canvas.savefig(files["png"], format="png", dpi=dpi)
    canvas.savefig(files["pdf"], format="pdf", metadata={"CreationDate": None})
    width, height = (round(inches * dpi) for inches in canvas.get_size_inches())
    return Drawing(files["png"].getvalue(), files["pdf"].getvalue(), width, height)


@mpl.rc_context(STYLE)
def compose(plot: Plot) -> Canvas:
    """Lay out a figure's panels with one legend for all, at most 7 inches wide (the width of a page's text)."""
    columns = len(plot.rows[0])
    size = (6.0 if columns == 1 else 7.0, 1.2 + 2.1 * len(plot.rows) + (0.4 if columns == 1 else 0))
    canvas = Canvas(figsize=size, layout="constrained")
    axes = canvas.subplots(len(plot.rows), columns, squeeze=False)
    epochs = max((line.values.index.max() for row in plot.rows for panel in row for line in panel.lines), default=1)
    for panels, row in zip(plot.rows, axes):
        for index, (panel, ax) in enumerate(zip(panels, row)):
            _panel(ax, panel, first=index == 0)
            if panel.x == "Epoch":
                ax.set_xlim(0, 1.03 * epochs)  # all panels alike, and no fractions where there are one or two epochs
    handles = _legend(plot.rows[0][0])
    canvas.legend(
        handles=handles, loc="outside lower center", ncols=5 if columns == 3 else 2, frameon=False, handlelength=2.8
    )
    if note := _note(plot):
        canvas.suptitle(note, fontsize=8, style="italic", wrap=True)
    return canvas


def _panel(ax: Axes, panel: Panel, first: bool) -> None:
    for index, line in enumerate(panel.lines):
        colour, marker = STYLES[line.label]
        mean, std = line.values.mean(axis=1), line.values.std(axis=1)
        x = mean.index.to_numpy(dtype=float)
        apart = max(1, len(x) // 8) if len(x) > 16 else 1
        ax.plot(
            x,
            mean.to_numpy(),
            color=colour,
            marker=marker,
            markersize=3.5,
            markerfacecolor="white" if line.dashed else colour,  # one epoch is a marker without a line
            markevery=(index * apart // len(panel.lines), apart),
            linewidth=1.2,
            linestyle=(0, (4, 2)) if line.dashed else "-",
        )
        if line.values.shape[1] > 1:
            band = np.nan_to_num(std.to_numpy())
            ax.fill_between(x, mean - band, mean + band, color=colour, alpha=0.2, linewidth=0)
    ax.set(title=panel.title, xlabel=panel.x, ylabel=panel.y if first else "")
    ax.xaxis.set_major_locator(MultipleLocator(1) if panel.x == "Block" else MaxNLocator(integer=True, nbins=6))


def _legend(panel: Panel) -> list[Line2D]:
    def handle(line: Line) -> Line2D:
        colour, marker = STYLES[line.label]
        label = f"{line.label} ({counted(line.values.shape[1], 'seed')})"
        return Line2D([], [], color=colour, marker=marker, markersize=4, label=label)

    handles = [handle(line) for line in panel.lines if not line.dashed]
    if any(line.dashed for line in panel.lines):
        grey: dict[str, Any] = {"color": "0.4", "marker": "o", "markersize": 4}
        handles.append(Line2D([], [], **grey, label="train"))
        handles.append(Line2D([], [], **grey, markerfacecolor="white", linestyle=(0, (4, 2)), label="test"))
    return handles


def _note(plot: Plot) -> str:
    """What a reader must know who sees the image alone."""
    scaled = "" if plot.scale == FULL else f"Scaled down: {scale_in_words(plot.scale)}."
    missing = f"Missing: {'; '.join(name.split(':')[0] for name in plot.missing)}." if plot.missing else ""
    return " ".join(part for part in (scaled, missing) if part)
