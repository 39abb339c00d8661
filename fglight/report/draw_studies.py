"""The figures of a study: accuracy over what a step takes, and what estimates are like beside the exact gradient."""

from collections.abc import Iterable
from itertools import cycle
from math import floor, log10
from typing import Any

import matplotlib as mpl
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import CenteredNorm, LogNorm, Normalize, SymLogNorm
from matplotlib.figure import Figure as Canvas

from fglight.report.draw_figures import STYLE
from fglight.report.estimators import Filled, as_frame
from fglight.runs.collect import Run
from fglight.studies import QUANTITIES, Row

# Okabe and Ito's colours and one more; single estimators are black. As many as a study has lines, and more markers.
_COLOURS = ("#0072B2", "#D55E00", "#56B4E9", "#CC79A7", "#E69F00", "#009E73", "#F0E442", "#882255")
_MARKERS, _SINGLE_MARKERS = "svDPo^X<>", "*+x1234|"
_DASHES: Any = (":", "--", "-.", *((0, marks) for marks in ((1, 4), (5, 5), (3, 1, 1, 1), (8, 3), (3, 1, 1, 1, 1, 1))))

_TOLD = {"more": _COLOURS[0], "less": _COLOURS[1]}
"""Colours of differences that are told; others are grey."""

_BY_DECADES = ("derivatives", "forward_mode")

PARTS = 10
"""Into how many equal parts training is divided."""

MEASURES = {
    "alignment": "cosine with the gradient",
    "length": "length, in gradients' lengths",
    "decrease": "fall of the loss by a step of it",
}
"""What is shown of estimates; ``length`` is the norm of the estimate over that of the exact gradient."""


@mpl.rc_context(STYLE)
def compose_accuracy(filled: Filled) -> Canvas:
    """Lay out accuracy, and cosine with the gradient, over what a step takes.

    Points of a line are joined over derivatives. Grey is the front of what no other point with as little reaches. What
    takes nothing of a quantity, such as directional derivatives, is a line across.
    """
    found = as_frame([filled]).reindex(columns=["mean", "alignment", *filled.study.over])
    found = found.assign(name=[_name(line.row) for line in filled.lines]).dropna(subset="mean")
    over = [quantity for quantity in filled.study.over if found[quantity].any()]
    canvas = Canvas(figsize=(max(6.4, 3.4 * len(over)), 7.2), layout="constrained")
    axes = canvas.subplots(2, len(over), squeeze=False, sharex="col", sharey="row")
    styles = _styles(line.row for line in filled.lines if line.score)
    for pair, quantity in zip(axes.T, over):
        for ax, shown in zip(pair, ("mean", "alignment")):
            for name, style in styles.items():
                points = found.loc[found["name"] == name, [quantity, shown]].dropna().sort_values([quantity, shown])
                some = points[points[quantity] > 0]
                joined = style if quantity == "derivatives" else {**style, "linestyle": "none"}
                ax.plot(some[quantity], some[shown], label=name, **joined)
                for level in points.loc[points[quantity] == 0, shown]:
                    ax.axhline(level, color=style["color"], linestyle=style["linestyle"], linewidth=1)
        best = found.groupby(quantity)["mean"].max().cummax()
        best = best[best.index > 0]  # the axis has no place for zero, whose level counts
        pair[0].plot(best.index, best, color="0.6", linewidth=4, alpha=0.4, drawstyle="steps-post", zorder=0)
        pair[1].set(
            xscale="log" if quantity in _BY_DECADES else "linear", xlabel=QUANTITIES[quantity].replace(": ", ":\n")
        )
    axes[0, 0].set_ylabel("test accuracy (%)")
    axes[1, 0].set_ylabel("cosine with the gradient")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    canvas.legend(handles, labels, loc="outside lower center", ncols=max(2, len(over)), frameon=False)
    canvas.suptitle(str(filled.scale), fontsize=8, style="italic")
    return canvas


@mpl.rc_context(STYLE)
def compose_leads(filled: Filled) -> Canvas:
    """Lay out how far each estimator is above local learning with the same auxiliary networks, a line each.

    Its 95 % interval, and below it a light mark for each seed.
    """
    leads = {line.row.label: lead for line in filled.lines if (lead := line.local) and lead.difference}
    canvas = Canvas(figsize=(7.2, 1.4 + 0.24 * len(leads)), layout="constrained")
    ax = canvas.subplots()
    for place, lead in enumerate(leads.values()):
        found = lead.difference
        assert found is not None
        ax.plot(found.values, [place + 0.3] * len(found.values), "|", color="0.6", markersize=5)
        if not found.lack:
            ax.plot(found.interval(), [place, place], color=_TOLD.get(lead.answer, "0.4"), linewidth=1.6)
        ax.plot(found.mean, place, "o", color=_TOLD.get(lead.answer, "0.4"), markersize=5)
    ax.axvline(0, color="black", linewidth=0.8)
    ax.set_yticks(range(len(leads)), list(leads))
    ax.set_ylim(len(leads) - 0.5, -0.5)
    ax.set_xlabel("test accuracy above local learning with the same networks (points)")
    canvas.suptitle(str(filled.scale), fontsize=8, style="italic")
    return canvas


def _name(row: Row) -> str:
    return row.line or row.label


def _styles(rows: Iterable[Row]) -> dict[str, dict[str, Any]]:
    """How each line, and each estimator that is on none, is drawn."""
    lines = zip(cycle(_COLOURS), cycle(_MARKERS), cycle("-"))
    singles = zip(cycle(["black"]), cycle(_SINGLE_MARKERS), cycle(_DASHES))
    styles: dict[str, dict[str, Any]] = {}
    for row in rows:
        if _name(row) not in styles:
            colour, marker, dots = next(lines if row.line else singles)
            looks = {"color": colour, "marker": marker, "linestyle": dots}
            styles[_name(row)] = {**looks, "markersize": 5, "linewidth": 1.2}
    return styles


def estimates(filled: Filled) -> pd.DataFrame | None:
    """What runs with ``measure=true`` have logged of their estimates; None where none of the study's has.

    Returns:
        ``MEASURES`` of each seed of each estimator of a study, in the study's order, by ``estimator`` (its label),
        ``part`` of training (from 0 to ``PARTS - 1``) and ``block`` (0..J-2); NaN where a block is not trained.
    """
    measured = {
        line.row.label: [frame for run in line.score.runs if (frame := _measures(run)) is not None]
        for line in filled.lines
        if line.score
    }
    found = {label: pd.concat(frames) for label, frames in measured.items() if frames}
    return pd.concat(found, names=["estimator"]) if found else None


def _measures(run: Run) -> pd.DataFrame | None:
    """``MEASURES`` of one run, by the part of training and the block; None where it was not measured."""
    names = ("alignment", "target", "estimate", "decrease")
    logged = {name: run.metrics.filter(regex=rf"^{name}/block\d+$") for name in names}
    if any(frame.empty for frame in logged.values()):
        return None
    part = (run.metrics["step"] * PARTS // (run.metrics["step"].max() + 1)).astype(int)
    for name, frame in logged.items():
        frame.columns = [int(column.removeprefix(f"{name}/block")) for column in frame.columns]
        logged[name] = frame.groupby(part).mean().stack()
    found = pd.DataFrame(logged).rename_axis(["part", "block"])
    trained = found["estimate"] > 0
    found["length"] = (found["estimate"] / found["target"]).where(trained)
    found["decrease"] = found["decrease"].where(trained)
    return found[[*MEASURES]]


def means(estimates: pd.DataFrame, measure: str, level: str) -> pd.DataFrame:
    """A measure by estimator, a line each, and by ``block`` or ``part``, a column each; means over all else."""
    found = estimates[measure].groupby(level=["estimator", level], sort=False).mean().unstack(level)
    return found.sort_index(axis="columns").reindex(estimates.index.unique("estimator"))


@mpl.rc_context(STYLE | {"axes.grid": False})
def compose_estimates(estimates: pd.DataFrame, scale: str) -> Canvas:
    """Lay out a pair of panels for each of ``MEASURES``: by block, and over training. Blue is more, red is less.

    Args:
        estimates: as the function of this name returns them.
        scale: what the runs share, in words.
    """
    labels = estimates.index.unique("estimator")
    canvas = Canvas(figsize=(13, 1.8 + 0.19 * len(labels)), layout="constrained")
    axes = canvas.subplots(1, 2 * len(MEASURES), sharey=True)
    for (name, words), left, right in zip(MEASURES.items(), axes[::2], axes[1::2]):
        pair = [means(estimates, name, level) for level in ("block", "part")]
        norm = _norm(name, pd.concat([frame.stack() for frame in pair]))
        for ax, frame in zip((left, right), pair):
            shown = ax.imshow(frame.to_numpy(), cmap="RdBu", norm=norm, aspect="auto", interpolation="none")
            ax.set_facecolor("0.85")  # not trained
            ax.set_yticks(range(len(labels)), labels)
        _along(left, "block", [*pair[0].columns])
        _along(right, "training (%)", [100 * (part + 1) // PARTS for part in pair[1].columns])
        bar = canvas.colorbar(shown, ax=[left, right], location="top", label=words, aspect=30)
        if isinstance(norm, SymLogNorm):  # matplotlib's own ticks crowd around zero
            decades = [norm.linthresh * 10**k for k in (1, 3)]
            bar.set_ticks([*(-decade for decade in decades), 0, *decades], minor=False)
    canvas.suptitle(scale, fontsize=8, style="italic")
    return canvas


def _along(ax: Axes, words: str, ticks: list[int]) -> None:
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
