"""The figure of what a study's estimates are like: a row for each estimator."""

from math import floor, log10

import matplotlib as mpl
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import CenteredNorm, LogNorm, Normalize, SymLogNorm
from matplotlib.figure import Figure as Canvas

from fglight.report.draw import STYLE, Drawing, saved
from fglight.report.estimates import MEASURES, PARTS, Estimates


@mpl.rc_context(STYLE | {"axes.grid": False})
def draw_estimates(estimates: Estimates, scale: str) -> Drawing:
    """Draw what estimates are like at one scale, and return the files."""
    return saved(compose_estimates(estimates, scale))


@mpl.rc_context(STYLE | {"axes.grid": False})
def compose_estimates(estimates: Estimates, scale: str) -> Canvas:
    """Lay out a pair of panels for each of ``MEASURES``: by block, and over training. Blue is more, red is less.

    Args:
        estimates: the numbers.
        scale: what the runs share, in words.
    """
    rows = max(len(frame) for frame in estimates.by_block.values())
    canvas = Canvas(figsize=(13, 1.8 + 0.19 * rows), layout="constrained")
    axes = canvas.subplots(1, 2 * len(MEASURES), sharey=True)
    for (name, words), left, right in zip(MEASURES.items(), axes[::2], axes[1::2]):
        pair = (estimates.by_block[name], estimates.over_training[name])
        norm = _norm(name, pd.concat([frame.stack() for frame in pair]))
        for ax, frame in zip((left, right), pair):
            shown = ax.imshow(frame.to_numpy(), cmap="RdBu", norm=norm, aspect="auto", interpolation="none")
            ax.set_facecolor("0.85")  # not trained
            ax.set_yticks(range(len(frame)), frame.index)
        _along(left, "block", pair[0].columns)
        _along(right, "training (%)", [100 * (part + 1) // PARTS for part in pair[1].columns])
        bar = canvas.colorbar(shown, ax=[left, right], location="top", label=words, aspect=30)
        if isinstance(norm, SymLogNorm):  # matplotlib's own ticks crowd around zero
            decades = [norm.linthresh * 10**k for k in (1, 3)]
            bar.set_ticks([*(-decade for decade in decades), 0, *decades], minor=False)
    canvas.suptitle(scale, fontsize=8, style="italic")
    return canvas


def _along(ax: Axes, words: str, ticks: "pd.Index[int] | list[int]") -> None:
    places = range(0, len(ticks), max(1, len(ticks) // 5))
    ax.set_xticks(places, [str(ticks[place]) for place in places])
    ax.set_xlabel(words)


def _norm(name: str, values: "pd.Series[float]") -> Normalize:
    """Colours around what is neither more nor less: no alignment, the gradient's length, no change of the loss."""
    if name == "alignment":
        return Normalize(-1, 1)
    if name == "length":
        most = max(values.max(), 1 / values[values > 0].min(), 2)
        return LogNorm(1 / most, most)
    most = values.abs().max()
    return SymLogNorm(10.0 ** (floor(log10(most)) - 3), vmin=-most, vmax=most) if most > 0 else CenteredNorm()
