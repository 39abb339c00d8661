"""The tables of docs/findings.md, from the results that are committed in docs/example.

python benchmarks/findings.py              # prints them
python benchmarks/findings.py --write      # puts each into the page in place of the table there that is most like it
python benchmarks/findings.py ONE OTHER    # how far an estimator is above another, wherever both have seeds in common
"""

import re
import sys
from pathlib import Path

import pandas as pd

from fglight.report.intervals import Estimate
from fglight.report.results import with_deviation

EXAMPLE = Path(__file__).parents[1] / "docs/example"
PAGE = Path(__file__).parents[1] / "docs/findings.md"
FOLDERS = ("study_feedback", "study_fashion_mnist", "study_digits")


def results() -> pd.DataFrame:
    """The rows of all ``studies.csv`` by folder: estimators that were run at the best of several rates."""
    found = pd.concat({name: pd.read_csv(EXAMPLE / name / "studies.csv") for name in FOLDERS}, names=["folder"])
    return found[found["held_out"].str.split().str.len() > 1].dropna(subset=["mean"])


def tables() -> dict[str, str]:
    """A table in Markdown for each folder, study and scale: estimators from the most to the least accurate."""
    groups = results().groupby(["folder", "study", "scale"], sort=False)
    return {", ".join(names): table(rows) for names, rows in groups}


def fronts() -> dict[str, str]:
    """A table in Markdown for each folder and scale: the guesses that none with as few derivatives surpasses."""
    groups = results().drop_duplicates(["scale", "overrides"]).groupby(["folder", "scale"], sort=False)
    return {
        ", ".join(names): front(rows)
        for names, rows in groups
        if rows["derivatives"][lambda taken: taken > 0].nunique() > 1
    }


def published() -> dict[str, str]:
    """A table in Markdown of Table 7's cells that were run, the paper's numbers in brackets, and of their controls."""
    cells = pd.read_csv(EXAMPLE / "fashion_mnist/accuracy.csv").fillna({"aux": "", "perturb": "activity"})
    printed = [f" ({paper:.1f})" if pd.notna(paper) else "" for paper in cells["paper"]]
    cells["text"] = [f"{_spread(row)}{paper}" for (_, row), paper in zip(cells.iterrows(), printed)]
    cells["name"] = cells["guess"].where(cells["paper"].notna(), "no guess: " + cells["guess"])
    cells["name"] += cells["aux"].where(cells["aux"] == "", ", " + cells["aux"])
    lines = _head("guess, and the network that it is made from", "activity", "weight")
    for name, rows in cells.groupby("name", sort=False):  # backpropagation and the controls have no perturbation
        text = rows.set_index("perturb")["text"]
        lines.append(f"| {name} | {text.get('activity')} | {text.get('weight', '')} |")
    return {"fashion_mnist, Table 7": "\n".join(lines)}


def table(rows: pd.DataFrame) -> str:
    """A line for each estimator.

    Args:
        rows: of ``studies.csv``, of one study and scale.
    """
    lines = _head(
        "estimator", "test accuracy (%)", "beside local learning, same networks", "derivatives", "cosine", "rate"
    )
    for _, result in rows.sort_values("mean", ascending=False, kind="stable").iterrows():
        lead = "" if pd.isna(result["over_local_learning_in_words"]) else _lead(result)
        cosine = "" if pd.isna(result["alignment"]) else f"{result['alignment']:.2f}"
        rate = f"{result['lr']:g}{'*' if result['at_edge'] else ''}"
        cells = (result["estimator"], _spread(result), lead, _derivatives(result), cosine, rate)
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def front(rows: pd.DataFrame) -> str:
    """A line for each guess that is more accurate than all with fewer derivatives a step, or as many.

    Args:
        rows: of ``studies.csv``, of one scale.
    """
    lines = _head("derivatives a step", "the most accurate guess with no more", "test accuracy (%)")
    ordered = rows[rows["derivatives"] > 0].sort_values(["derivatives", "mean"], ascending=[True, False])
    for _, result in ordered[ordered["mean"] > ordered["mean"].cummax().shift(fill_value=0)].iterrows():
        lines.append(f"| {_derivatives(result)} | {result['estimator']} | {_spread(result)} |")
    return "\n".join(lines)


def beside(one: str, other: str) -> list[str]:
    """Lines with the differences of two estimators on common seeds, and their intervals, by study and scale."""
    lines = []
    for names, rows in results().groupby(["folder", "study", "scale"], sort=False):
        seeds = [_by_seed(rows[rows["estimator"] == label]) for label in (one, other)]
        if common := seeds[0].keys() & seeds[1].keys():
            difference = Estimate.of([seeds[0][seed] - seeds[1][seed] for seed in sorted(common)])
            lines.append(f"{', '.join(names)}: {difference} ({len(common)} seeds)")
    return lines


def _by_seed(rows: pd.DataFrame) -> dict[str, float]:
    pairs = (pair.split(":") for text in rows["accuracies"] for pair in text.split())
    return {seed: float(accuracy) for seed, accuracy in pairs}


def _head(*names: str) -> list[str]:
    return [f"| {' | '.join(names)} |", "|---" * len(names) + "|"]


def _derivatives(result: "pd.Series") -> str:
    return f"{result['derivatives']:,.0f}" if result["derivatives"] > 0 else ""


def _spread(result: "pd.Series") -> str:
    return with_deviation(result["mean"], None if pd.isna(result["std"]) else result["std"])


def _lead(result: "pd.Series") -> str:
    return f"{result['over_local_learning_in_words']}: {result['over_local_learning_answer']}"


def write() -> None:
    """Put the tables into the page, each in place of the one there with the same head that shares most rows."""

    def rows(text: str) -> set[str]:
        return {line.split("|")[1] for line in text.splitlines()}

    def shared(one: set[str], other: set[str]) -> float:
        return len(one & other) / len(one | other)

    new = [*published().values(), *tables().values(), *fronts().values()]

    def newer(there: re.Match[str]) -> str:
        alike = [text for text in new if text.splitlines()[0] == there[0].splitlines()[0]]
        return max(alike, key=lambda text: shared(rows(text), rows(there[0]))) + "\n" if alike else there[0]

    PAGE.write_text(re.sub(r"(?m)^\|.*\n(\|.*\n)+", newer, PAGE.read_text()))


if __name__ == "__main__":
    if "--write" in sys.argv:
        write()
    elif len(sys.argv) == 3:
        print(*beside(*sys.argv[1:]), sep="\n")
    else:
        for name, text in (published() | tables() | fronts()).items():
            print(f"{name}\n\n{text}\n")
