"""A report's contents as the files of its folder: HTML, Markdown, LaTeX, CSV and images."""

import html
from base64 import b64encode
from collections.abc import Callable
from operator import attrgetter
from typing import Any

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from fglight.paper.claims import ACCURACY, Quantity
from fglight.report.contents import Report
from fglight.report.estimators import Line
from fglight.report.estimators import as_frame as studies_as_frame
from fglight.report.intervals import Estimate
from fglight.report.results import Score
from fglight.report.tables import as_frame
from fglight.report.verdicts import Answer, Compared
from fglight.studies import QUANTITIES
from fglight.words import counted

SIGNS = {"more": "▲", "less": "▼", "not told apart": "≈"}
STUDY_FIGURES = {
    "accuracy": {
        "alt": "test accuracy and cosine with the gradient over what a step takes",
        "caption": "Grey: the best accuracy of all estimators that take no more.",
    },
    "estimates": {
        "alt": "estimates beside the exact gradient, by block and over training",
        "caption": "Estimates beside the exact gradient of the network's loss, means over seeds: by block over all of "
        "training, and over training for all blocks together. The loss falls by what a plain step of one block along "
        "its estimate, at the run's learning rate, gains on the batch. Grey: not trained.",
    },
}
OUTCOMES = {"holds": "✓", "does not hold": "✗", "not told apart": "≈"}
ANSWERS: tuple[Answer, ...] = ("holds", "does not hold", "open")

_TEX = {
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "±": r"$\pm$",
    "−": r"$-$",
    "≈": r"$\approx$",
    "▲": r"$\blacktriangle$",
    "▼": r"$\blacktriangledown$",
}


def render(report: Report) -> dict[str, bytes]:
    """The contents of every file of a report by its name below the report's folder."""
    drawings = {f"figure{plot.figure.number}": drawing for plot, drawing in report.figures if drawing}
    files = {
        "index.html": _html().get_template("index.html").render(report=report).encode(errors="replace"),
        "tables.md": _markdown().get_template("tables.md").render(report=report).encode(errors="replace"),
    }
    if report.tables:
        files["tables.tex"] = _latex().get_template("tables.tex").render(report=report).encode(errors="replace")
        files["tables.csv"] = _csv(as_frame(report.tables, (one for one, _ in report.scaled)))
    if report.studies:
        frame = studies_as_frame(filled for _, scales in report.studies for filled, _ in scales)
        files["studies.csv"] = _csv(frame)
    for study, scales in report.studies:
        for number, (_, drawn) in enumerate(scales, 1):
            drawings |= {f"{study.name}-{what}{number}": drawing for what, drawing in drawn.items()}
    for name, drawing in drawings.items():
        files[f"figures/{name}.png"] = drawing.png
        files[f"figures/{name}.pdf"] = drawing.pdf
    return files


def _csv(frame: pd.DataFrame) -> bytes:
    return frame.to_csv(index=False, float_format="%.8g").encode()


def _environment(escape: Callable[[str], str], **options: Any) -> Environment:
    """Templates whose values, other than what macros have rendered, go through ``escape``."""

    def finalize(value: object) -> Markup:
        return value if isinstance(value, Markup) else Markup(escape(str(value)))

    environment = Environment(
        loader=PackageLoader("fglight.report"),
        autoescape=True,
        finalize=finalize,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        **options,
    )
    environment.filters |= {
        "cell": attrgetter("in_words"),
        "counted": counted,
        "quantity": _quantity,
        "value": _value,
        "apart": _apart,
        "difference": Estimate.text,
        "derivatives": _derivatives,
        "base64": lambda content: b64encode(content).decode(),
    }
    environment.globals |= {
        "signs": SIGNS,
        "outcomes": OUTCOMES,
        "answers": ANSWERS,
        "study_figures": STUDY_FIGURES,
        "quantities": QUANTITIES,
    }
    return environment


def _html() -> Environment:
    return _environment(html.escape)


def _markdown() -> Environment:
    return _environment(lambda text: html.escape(text, quote=False).replace("|", "\\|").replace("\n", " "))


def _latex() -> Environment:
    return _environment(
        lambda text: "".join(_TEX.get(sign, sign if sign.isascii() else "?") for sign in text),
        variable_start_string="<<",
        variable_end_string=">>",
        block_start_string="<%",
        block_end_string="%>",
        comment_start_string="<#",
        comment_end_string="#>",
    )


def _quantity(quantity: Quantity) -> str:
    """Name a number that runs have: its cell, and what it is unless an accuracy."""
    if quantity.metric == ACCURACY:
        return quantity.cell.in_words
    period = "" if quantity.period is None else " from {:.0%} to {:.0%} of training".format(*quantity.period)
    return f"{quantity.cell.in_words}, {quantity.metric}{period}"


def _value(score: Score, quantity: Quantity) -> str:
    if quantity.metric == ACCURACY:
        return str(score)
    return f"{score.mean:.3g}" if score.std is None else f"{score.mean:.3g} ± {score.std:.2g}"


def _apart(compared: Compared) -> str:
    """Write what a comparison comes to: points of accuracy, or what the numbers are in."""
    metric = compared.comparison.quantities[0].metric
    return compared.difference.text(".1f" if metric == ACCURACY else ".2g")


def _derivatives(line: Line) -> str:
    """Write how many there are a step, and how many of them are exact: ``704 (512 exact)``."""
    taken, exact = (line.of(name) or 0 for name in ("derivatives", "exact"))
    return f"{taken:,.0f}" + (f" ({exact:,.0f} exact)" if exact else "")
