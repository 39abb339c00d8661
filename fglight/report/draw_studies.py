"""The figure of a study: accuracy, and cosine with the gradient, over what a step takes."""

from collections.abc import Iterable, Sequence
from itertools import accumulate, cycle

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas

from fglight.report.draw import STYLE, Drawing, saved
from fglight.report.studies import Filled, Line
from fglight.studies import QUANTITIES

# Okabe and Ito's colours.
_MARKS = tuple(zip(("#0072B2", "#D55E00", "#56B4E9", "#CC79A7", "#E69F00", "#009E73"), "svDPo^"))
_DOTS = (":", "--", "-.")

Point = tuple[float, float]


@mpl.rc_context(STYLE)
def draw_study(filled: Filled) -> Drawing:
    """Draw a study at one scale, and return its files."""
    return saved(compose_study(filled))


@mpl.rc_context(STYLE)
def compose_study(filled: Filled) -> Canvas:
    """Lay out the figure of a study at one scale.

    Points of a line are joined; the grey line is the front of what no other point with as little reaches. What takes
    nothing of a quantity, such as directional derivatives, is a line across.
    """
    over = [quantity for quantity in filled.study.over if any(line.of(quantity) for line in filled.lines)]
    canvas = Canvas(figsize=(max(6.4, 3.4 * len(over)), 7.2), layout="constrained")
    axes = canvas.subplots(2, len(over), squeeze=False, sharex="col", sharey="row")
    for (above, below), quantity in zip(axes.T, over):
        accuracies = [(line, line.score.mean) for line in filled.lines if line.score]
        cosines = [(line, y) for line, _ in accuracies if (y := line.of("alignment")) is not None]
        for ax, values in ((above, accuracies), (below, cosines)):
            _points(ax, values, quantity)
        _front(above, [(x, y) for line, y in accuracies if (x := line.of(quantity))])
        below.set(xscale="log", xlabel=QUANTITIES[quantity])
    axes[0, 0].set_ylabel("test accuracy (%)")
    axes[1, 0].set_ylabel("cosine with the gradient")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    canvas.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False)
    canvas.suptitle(filled.scale, fontsize=8, style="italic")
    return canvas


def _points(ax: Axes, values: Sequence[tuple[Line, float]], quantity: str) -> None:
    marks, dots = cycle(_MARKS), cycle(_DOTS)
    names = dict.fromkeys(line.row.line or line.row.label for line, _ in values)
    for name in names:
        own = [(line.of(quantity), y) for line, y in values if name == (line.row.line or line.row.label)]
        points = sorted((x, y) for x, y in own if x)
        if points:
            colour, marker = next(marks)
            ax.plot(*zip(*points), marker=marker, color=colour, markersize=4, linewidth=1.2, label=name)
        for level in (y for x, y in own if x == 0):
            ax.axhline(level, color="black", linestyle=next(dots), linewidth=1, label=name)


def _front(ax: Axes, points: Iterable[Point]) -> None:
    """The largest value of all points that are no further right."""
    ordered: Sequence[Point] = sorted(points)
    if ordered:
        best = list(accumulate((y for _, y in ordered), max))
        ax.plot([x for x, _ in ordered], best, color="0.6", linewidth=4, alpha=0.4, drawstyle="steps-post", zorder=0)
