"""A report's contents as the files of its folder: HTML, Markdown, LaTeX, CSV and images."""

import html
from base64 import b64encode
from collections.abc import Callable
from typing import Any

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from fglight.report.contents import Report
from fglight.report.estimators import as_frame as studies_as_frame
from fglight.report.tables import as_frame
from fglight.report.verdicts import Answer
from fglight.studies import QUANTITIES
from fglight.text import counted

SIGNS = {"more": "▲", "less": "▼", "not told apart": "≈"}
STUDY_FIGURES = {
    "accuracy": {
        "alt": "test accuracy and cosine with the gradient over what a step takes",
        "caption": "Grey: the best accuracy of all estimators that take no more.",
    },
    "leads": {
        "alt": "test accuracy above local learning with the same auxiliary networks",
        "caption": "Differences over the same seeds, light marks, with the 95 % interval of their mean. Blue: more. "
        "Orange: less. Grey: not told apart, or no verdict.",
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

_TEX_MARKS = {
    "variable_start_string": "<<",
    "variable_end_string": ">>",
    "block_start_string": "<%",
    "block_end_string": "%>",
    "comment_start_string": "<#",
    "comment_end_string": "#>",
}


def render(report: Report) -> dict[str, bytes]:
    """The contents of every file of a report by its name below the report's folder."""
    drawings = {f"figure{plot.figure.number}": drawing for plot, drawing in report.figures if drawing}
    files = {
        "index.html": _rendered("index.html", report, html.escape),
        "tables.md": _rendered("tables.md", report, _markdown),
    }
    if report.tables:
        files["tables.tex"] = _rendered("tables.tex", report, _latex, **_TEX_MARKS)
        files["tables.csv"] = _csv(as_frame(report.tables, (one for one, _ in report.scaled)))
    if report.studies:
        frame = studies_as_frame(filled for _, scales in report.studies for filled, _ in scales)
        files["studies.csv"] = _csv(frame)
    for study, scales in report.studies:
        for number, (_, drawn) in enumerate(scales, 1):
            drawings |= {f"{study.name}-{what}{number}": drawing for what, drawing in drawn.items()}
    for name, drawing in drawings.items():
        files |= {f"figures/{name}.{suffix}": content for suffix, content in drawing.items()}
    return files


def _csv(frame: pd.DataFrame) -> bytes:
    return frame.to_csv(index=False, float_format="%.8g").encode()


def _rendered(name: str, report: Report, escape: Callable[[str], str], **options: Any) -> bytes:
    """A template filled in; values, other than what macros have rendered, go through ``escape``."""

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
    environment.filters |= {"counted": counted, "base64": lambda content: b64encode(content).decode()}
    environment.globals |= {
        "signs": SIGNS,
        "outcomes": OUTCOMES,
        "answers": ANSWERS,
        "study_figures": STUDY_FIGURES,
        "quantities": QUANTITIES,
    }
    return environment.get_template(name).render(report=report).encode(errors="replace")


def _markdown(text: str) -> str:
    return html.escape(text, quote=False).replace("|", "\\|").replace("\n", " ")


def _latex(text: str) -> str:
    return "".join(_TEX.get(sign, sign if sign.isascii() else "?") for sign in text)
