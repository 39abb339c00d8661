"""The tables of docs/findings.md, from the results that are committed in docs/example.

python benchmarks/findings.py
"""

from pathlib import Path

import pandas as pd

from fglight.report.scores import accuracy

EXAMPLE = Path(__file__).parents[1] / "docs/example"
FOLDERS = ("study_digits", "study_fashion_mnist")


def results() -> pd.DataFrame:
    """The rows of all ``studies.csv`` by folder: estimators that were run at the best of several rates."""
    found = pd.concat({name: pd.read_csv(EXAMPLE / name / "studies.csv") for name in FOLDERS}, names=["folder"])
    return found[found["held_out"].str.split().str.len() > 1].dropna(subset=["accuracies"])


def tables() -> dict[str, str]:
    """A table in Markdown for each folder, study and scale: estimators from the most to the least accurate."""
    groups = results().groupby(["folder", "study", "scale"], sort=False)
    return {", ".join(names): table(rows) for names, rows in groups}


def fronts() -> dict[str, str]:
    """A table in Markdown for each folder and scale: the guesses that none with as few derivatives surpasses."""
    groups = results().drop_duplicates(["scale", "overrides"]).groupby(["folder", "scale"], sort=False)
    return {", ".join(names): front(rows) for names, rows in groups if (rows["derivatives"] > 0).sum() > 1}


def published() -> dict[str, str]:
    """A table in Markdown of Table 7's cells that were run, the paper's numbers in brackets, and of their controls."""
    folder = EXAMPLE / "fashion_mnist"
    cells = pd.read_csv(folder / "tables.csv").dropna(subset=["mean"]).set_index(["guess", "aux"])
    cells["perturb"] = cells["perturb"].fillna("activity")  # backpropagation has none
    ours = map(accuracy, cells["mean"], cells["std"].replace(float("nan"), None))
    cells["text"] = [f"{mean} ({paper:.1f})" for mean, paper in zip(ours, cells["paper_mean"])]
    lines = _head("guess, and the network that it is made from", "activity", "weight")
    for name in cells.index.unique():
        text = cells.loc[[name]].set_index("perturb")["text"]
        lines.append(f"| {', '.join(filter(pd.notna, name))} | {text.get('activity')} | {text.get('weight', '')} |")
    controls = pd.read_csv(folder / "studies.csv").dropna(subset=["accuracies"])
    controls = controls[controls["overrides"] != "guess=exact"]  # it is a cell, too
    lines += [f"| no guess: {row['estimator']} | {_spread(row)} |  |" for _, row in controls.iterrows()]
    return {"fashion_mnist, Table 7": "\n".join(lines)}


def table(rows: pd.DataFrame) -> str:
    """A line for each estimator.

    Args:
        rows: of ``studies.csv``, of one study and scale. Means and deviations are recomputed from the
            accuracies of single runs.
    """
    lines = _head(
        "estimator", "test accuracy (%)", "beside local learning, same networks", "derivatives", "cosine", "rate"
    )
    for _, result in rows.assign(best=_means).sort_values("best", ascending=False, kind="stable").iterrows():
        lead = "" if pd.isna(result["over_local_learning"]) else _lead(result)
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
    taken = rows[rows["derivatives"] > 0].assign(best=_means)
    ordered = taken.sort_values(["derivatives", "best"], ascending=[True, False])
    for _, result in ordered[ordered["best"] > ordered["best"].cummax().shift(fill_value=0)].iterrows():
        lines.append(f"| {_derivatives(result)} | {result['estimator']} | {_spread(result)} |")
    return "\n".join(lines)


def _head(*names: str) -> list[str]:
    return [f"| {' | '.join(names)} |", "|---" * len(names) + "|"]


def _derivatives(result: "pd.Series") -> str:
    return f"{result['derivatives']:,.0f}" if result["derivatives"] > 0 else ""


def _means(rows: pd.DataFrame) -> "pd.Series[float]":
    return rows["accuracies"].map(lambda runs: _numbers(runs).mean())


def _numbers(words: object) -> "pd.Series[float]":
    return pd.Series(str(words).split(), dtype=float)


def _spread(result: "pd.Series") -> str:
    runs = _numbers(result["accuracies"])
    return accuracy(runs.mean(), runs.std() if len(runs) > 1 else None)


def _lead(result: "pd.Series") -> str:
    mean, std, answer = (result[f"over_local_learning{what}"] for what in ("", "_std", "_answer"))
    return f"{round(mean, 1) + 0.0:+.1f} ± {std:.1f}: {answer}"


if __name__ == "__main__":
    for name, text in (published() | tables() | fronts()).items():
        print(f"{name}\n\n{text}\n")
