"""``metrics/version_K/metrics.csv`` of a run as one data frame."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from yaml import YAMLError

from fglight.errors import one_line
from fglight.runs.folder import METRICS


@dataclass(eq=False)
class Problem(Exception):
    """A file that could not be used, and why."""

    path: Path
    reason: str


@contextmanager
def reading(path: Path, kind: str) -> Iterator[None]:
    """Read a file that is to be of some kind.

    Raises:
        Problem: it cannot be read, or is of another kind.
    """
    try:
        yield
    except OSError as error:
        raise Problem(path, error.strerror or str(error)) from error
    except (ValueError, YAMLError) as error:  # not UTF-8, half-written, or lines of the wrong length
        raise Problem(path, f"not {kind} ({one_line(error)})") from error


def read_metrics(run: Path, problems: list[Problem]) -> pd.DataFrame:
    """Read all versions of a run's metrics; a resumed run repeats steps, and the later version's hold.

    Args:
        run: a run directory.
        problems: receives a line for each file, or part of a file, that cannot be used.

    Returns:
        Numbers in the order of their steps, with the columns ``epoch`` and ``step`` and whatever was logged; empty
        if nothing can be read.
    """
    frame = pd.DataFrame(columns=["epoch", "step"], dtype=float)
    for path in sorted(run.glob(f"{METRICS}/version_*/metrics.csv"), key=_version):
        try:
            version = _read(path, problems)
        except Problem as problem:
            problems.append(problem)
            continue
        if not version.empty:
            superseded = frame["step"] >= version["step"].min()
            frame = pd.concat([frame[~superseded], version]) if len(frame) else version
    return frame.sort_values("step", kind="stable", ignore_index=True)


def by_epoch(metrics: pd.DataFrame, column: str) -> pd.Series:
    """The last value of a column in each epoch, indexed by the number of epochs trained (from 1)."""
    if column not in metrics:
        return pd.Series(dtype=float)
    values = metrics.dropna(subset=[column, "epoch"]).groupby("epoch")[column].last()
    values.index += 1
    return values


def along_training(metrics: pd.DataFrame, column: str, bins: int = 100) -> pd.Series:
    """The mean of a column logged every few steps over equal parts of training.

    Args:
        metrics: what ``read_metrics`` returns.
        column: its values are averaged.
        bins: number of parts that the steps of the whole training are divided into.

    Returns:
        Means, indexed by the epochs trained at the middle of each part. Empty if nothing was logged.
    """
    if column not in metrics or metrics[column].isna().all():
        return pd.Series(dtype=float)
    epochs = metrics["epoch"].max() + 1
    steps = metrics["step"].max() + 1
    logged = metrics.dropna(subset=[column])
    part = (logged["step"] * bins // steps).rename("part")
    means = logged.groupby(part)[column].mean()
    means.index = (means.index + 0.5) / bins * epochs
    return means


def _version(path: Path) -> int:
    suffix = path.parent.name.removeprefix("version_")
    return int(suffix) if suffix.isdecimal() else -1


def _read(path: Path, problems: list[Problem]) -> pd.DataFrame:
    with reading(path, "a readable table"):
        text = path.read_text(encoding="utf-8")
        whole = text[: text.rfind("\n") + 1]
        raw = pd.read_csv(io.StringIO(whole)) if whole.strip() else pd.DataFrame(columns=["epoch", "step"])
    if whole != text:
        problems.append(Problem(path, "the last line is cut off and was left out"))
    if missing := {"epoch", "step"} - set(raw.columns):
        raise Problem(path, f"no column {' and '.join(sorted(missing))}")
    numbers = raw.apply(pd.to_numeric, errors="coerce")
    if damaged := [name for name in raw if (numbers[name].isna() & raw[name].notna()).any()]:
        problems.append(Problem(path, f"entries that are no numbers in {', '.join(damaged)} were left out"))
    return numbers.dropna(subset=["step"]).astype(float)
