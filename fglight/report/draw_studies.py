"""The figure of a study: accuracy, and cosine with the gradient, over what a step takes."""

from collections.abc import Iterable
from itertools import cycle
from typing import Any

import matplotlib as mpl
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas

from fglight.report.draw import STYLE, Drawing, saved
from fglight.report.studies import Filled
from fglight.studies import QUANTITIES, Row

# Okabe and Ito's colours and one more; single estimators are black. As many as a study has lines, and more markers.
_COLOURS = ("#0072B2", "#D55E00", "#56B4E9", "#CC79A7", "#E69F00", "#009E73", "#F0E442", "#882255")
_MARKERS = "svDPo^X<>"
_SINGLE: tuple[tuple[Any, str], ...] = (
    (":", "*"),
    ("--", "+"),
    ("-.", "x"),
    ((0, (1, 4)), "1"),
    ((0, (5, 5)), "2"),
    ((0, (3, 1, 1, 1)), "3"),
    ((0, (8, 3)), "4"),
    ((0, (3, 1, 1, 1, 1, 1)), "|"),
)

Point = tuple[float, float]


@mpl.rc_context(STYLE)
def draw_study(filled: Filled) -> Drawing:
    """Draw a study at one scale, and return its files."""
    return saved(compose_study(filled))


@mpl.rc_context(STYLE)
def compose_study(filled: Filled) -> Canvas:
    """Lay out the figure of a study at one scale.

    Points of a line are joined over derivatives. Grey is the front of what no other point with as little reaches. What
    takes nothing of a quantity, such as directional derivatives, is a line across.
    """
    over = [quantity for quantity in filled.study.over if any(line.of(quantity) for line in filled.lines)]
    canvas = Canvas(figsize=(max(6.4, 3.4 * len(over)), 7.2), layout="constrained")
    axes = canvas.subplots(2, len(over), squeeze=False, sharex="col", sharey="row")
    accuracies = [(line, line.score.mean) for line in filled.lines if line.score]
    cosines = [(line, y) for line, _ in accuracies if (y := line.of("alignment")) is not None]
    styles = _styles(line.row for line, _ in accuracies)
    for (above, below), quantity in zip(axes.T, over):
        for ax, values in ((above, accuracies), (below, cosines)):
            for name, style in styles.items():
                own = [(line.of(quantity), y) for line, y in values if _name(line.row) == name]
                points = sorted((x, y) for x, y in own if x)
                joined = style if quantity == "derivatives" else {**style, "linestyle": "none"}
                ax.plot([x for x, _ in points], [y for _, y in points], label=name, **joined)
                for level in (y for x, y in own if x == 0):
                    ax.axhline(level, color=style["color"], linestyle=style["linestyle"], linewidth=1)
        _front(above, [(x, y) for line, y in accuracies if (x := line.of(quantity)) is not None])
        below.set(xscale="log" if quantity == "derivatives" else "linear", xlabel=QUANTITIES[quantity])
    axes[0, 0].set_ylabel("test accuracy (%)")
    axes[1, 0].set_ylabel("cosine with the gradient")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    canvas.legend(handles, labels, loc="outside lower center", ncols=max(2, len(over)), frameon=False)
    canvas.suptitle(filled.in_words, fontsize=8, style="italic")
    return canvas


def _name(row: Row) -> str:
    return row.line or row.label


def _styles(rows: Iterable[Row]) -> dict[str, dict[str, Any]]:
    """How each line, and each estimator that is on none, is drawn."""
    lines, singles = zip(cycle(_COLOURS), cycle(_MARKERS)), cycle(_SINGLE)
    styles: dict[str, dict[str, Any]] = {}
    for row in rows:
        if _name(row) not in styles:
            if row.line:
                colour, marker, dots = *next(lines), "-"
            else:
                dots, marker = next(singles)
                colour = "black"
            styles[_name(row)] = {
                "color": colour,
                "marker": marker,
                "linestyle": dots,
                "markersize": 5,
                "linewidth": 1.2,
            }
    return styles


def _front(ax: Axes, points: Iterable[Point]) -> None:
    """The largest value of all points that are no further right."""
    best = pd.Series(dict(sorted(points)), dtype=float).cummax()  # of equal x, the last and highest stays
    best = best[best.index > 0]  # the axis has no place for zero, whose level counts
    if len(best):
        ax.plot(best.index, best, color="0.6", linewidth=4, alpha=0.4, drawstyle="steps-post", zorder=0)
