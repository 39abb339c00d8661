"""The tables of docs/findings.md, from the results that are committed in docs/example.

python benchmarks/findings.py
"""

from pathlib import Path

import pandas as pd

from fglight.report.scores import accuracy

EXAMPLE = Path(__file__).parents[1] / "docs/example"
FOLDERS = ("study_digits", "study_fashion_mnist")


def tables() -> dict[str, str]:
    """A table in Markdown for each folder, study and scale: estimators from the most to the least accurate."""
    results = pd.concat({name: pd.read_csv(EXAMPLE / name / "studies.csv") for name in FOLDERS}, names=["folder"])
    groups = results.groupby(["folder", "study", "scale"], sort=False)
    return {", ".join(names): table(rows) for names, rows in groups}


def table(results: pd.DataFrame) -> str:
    """A line for each estimator that was run.

    Args:
        results: rows of ``studies.csv``, of one study and scale. Means and deviations are recomputed from the
            accuracies of single runs.
    """
    head = ("estimator", "test accuracy (%)", "beside local learning, same networks", "derivatives", "cosine", "rate")
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    accuracies = results.dropna(subset=["accuracies"]).set_index("estimator")["accuracies"].map(_numbers)
    for label in accuracies.map(lambda runs: runs.mean()).sort_values(ascending=False, kind="stable").index:
        result = results.set_index("estimator").loc[label]
        lead = "" if pd.isna(result["over_local_learning"]) else _lead(result)
        derivatives = f"{result['derivatives']:,.0f}" if result.get("derivatives", 0) > 0 else ""
        cosine = "" if pd.isna(result.get("alignment")) else f"{result['alignment']:.2f}"
        rate = f"{result['lr']:g}{'*' if result['at_edge'] else ''}"
        lines.append(f"| {label} | {_spread(accuracies[label])} | {lead} | {derivatives} | {cosine} | {rate} |")
    return "\n".join(lines)


def _numbers(words: object) -> "pd.Series[float]":
    return pd.Series(str(words).split(), dtype=float)


def _spread(runs: "pd.Series[float]") -> str:
    return accuracy(runs.mean(), runs.std() if len(runs) > 1 else None)


def _lead(result: "pd.Series") -> str:
    mean, std, answer = (result[f"over_local_learning{what}"] for what in ("", "_std", "_answer"))
    return f"{round(mean, 1) + 0.0:+.1f} ± {std:.1f}: {answer}"


if __name__ == "__main__":
    for name, text in tables().items():
        print(f"{name}\n\n{text}\n")
