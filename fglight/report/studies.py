"""Studies filled in: each estimator beside frozen blocks and beside local learning with the same auxiliary networks."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import pandas as pd

from fglight.report.belonging import row_of, scale_of, searched, told_better
from fglight.report.metrics import ReadMetrics
from fglight.report.scores import Score, Setting, setting_in_words, within_noise
from fglight.runs.collect import Run
from fglight.studies import Row, Study

LOGGED = {
    "alignment": "alignment/block",
    "derivatives": "derivatives/taken",
    "exact": "derivatives/exact",
    "forwards": "costs/forwards",
    "memory": "costs/memory",
}
"""What runs with ``measure=true`` log, by the names' beginnings."""

Answer = Literal["more", "less", "within noise", "not enough runs"]


@dataclass(frozen=True)
class Lead:
    """How far an estimator's test accuracy is above another's, in points, over the seeds that both have.

    Attributes:
        mean: of the differences.
        std: their standard deviation; None for one seed.
        answer: ``within noise`` where the mean is no larger than the two estimators' deviations together, as in claims.
    """

    mean: float
    std: float | None
    answer: Answer

    @classmethod
    def of(cls, ours: Score | None, other: Score | None) -> "Lead | None":
        """The lead of a score over another; None where no seed has both."""
        if not (ours and other):
            return None
        mine, theirs = ({run.seed: 100 * run.score for run in score.runs} for score in (ours, other))
        apart = pd.Series([mine[seed] - theirs[seed] for seed in mine if seed in theirs], dtype=float)
        if apart.empty:
            return None
        if len(apart) == 1:
            return cls(float(apart.mean()), None, "not enough runs")
        mean = float(apart.mean())
        answer: Answer = "within noise" if within_noise(mean, (ours, other)) else "more" if mean > 0 else "less"
        return cls(mean, float(apart.std()), answer)


@dataclass(frozen=True)
class Line:
    """An estimator of a study at one scale.

    Attributes:
        row: the estimator.
        rate: its learning rate, the best on held-out images; where none was searched, that of most runs; None where no
            run tells.
        held_out: the accuracy on these, in percent, by the learning rates that were searched.
        score: its test accuracy, in percent.
        frozen: how far it is above frozen blocks.
        same: the score of local learning with the same auxiliary networks.
        local: how far it is above that.
        compared: whether there is such local learning.
        quantities: what a step of it takes and is worth, as far as it is known: ``QUANTITIES``; ``exact``, how many
            derivatives are the exact gradient of a single number; ``alignment``, the cosine similarity of its estimate
            and the exact gradient, a mean over blocks, training and seeds.
    """

    row: Row
    rate: float | None
    held_out: Mapping[float, float]
    score: Score | None
    frozen: Lead | None
    same: Score | None
    local: Lead | None
    compared: bool
    quantities: Mapping[str, float]

    @property
    def searched(self) -> bool:
        """Whether the rate is the best of several, and not just the one that its runs had."""
        return len(self.held_out) > 1

    @property
    def at_edge(self) -> bool:
        """Whether the rate is the largest or smallest of several, so that one beyond may be better."""
        return self.searched and self.rate in (min(self.held_out), max(self.held_out))

    def of(self, quantity: str) -> float | None:
        """One of the quantities; None where it is not known."""
        return self.quantities.get(quantity)


@dataclass(frozen=True)
class Filled:
    """A study at one scale: data set, width, epochs and all else that its runs share."""

    study: Study
    setting: Setting
    lines: tuple[Line, ...]

    @property
    def scale(self) -> str:
        """The scale in words."""
        return setting_in_words(self.setting)

    @property
    def drawn(self) -> bool:
        """Whether there is something to draw: an accuracy and what it is drawn over."""
        return any(line.score and line.of(over) for line in self.lines for over in self.study.over)

    @cached_property
    def local(self) -> Counter[Answer]:
        """How many guesses from auxiliary networks do more, less and so on than local learning with the same ones."""
        return Counter(line.local.answer if line.local else "not enough runs" for line in self.lines if line.compared)

    @cached_property
    def better(self) -> list[str]:
        """The labels of those that do more."""
        return [line.row.label for line in self.lines if line.local and line.local.answer == "more"]


def fill(study: Study, runs: Iterable[Run], read: ReadMetrics) -> tuple[Filled, ...]:
    """Put the runs of a study's estimators in its rows, for each scale; that with most runs comes first.

    An estimator's runs are those at its best learning rate, by accuracy and then by loss on held-out images. A scale
    all of whose runs are estimators of other studies is none.

    Args:
        study: the study.
        runs: finished runs of any kind.
        read: gives a run directory's metrics, as ``read_metrics`` does.
    """
    scales: dict[Setting, dict[Row, list[Run]]] = {}
    for run in runs:
        if (row := row_of(study, run)) is not None:
            scales.setdefault(scale_of(row, run), {}).setdefault(row, []).append(run)
    own = (
        (setting, found)
        for setting, found in scales.items()
        if not all(told_better(row, run) for row, runs_of_row in found.items() for run in runs_of_row)
    )
    ordered = sorted(own, key=lambda scale: -sum(map(len, scale[1].values())))
    return tuple(_fill(study, setting, found, read) for setting, found in ordered)


def _fill(study: Study, setting: Setting, found: Mapping[Row, list[Run]], read: ReadMetrics) -> Filled:
    found = {row: [run for run in runs if "lr" in run.recipe] for row, runs in found.items()}
    searches = {row: {run.recipe["lr"]: run for run in runs if searched(run)} for row, runs in found.items()}
    rates = {row: _rate(runs, searches[row]) for row, runs in found.items()}
    scores = {row: _score(runs, rates[row]) for row, runs in found.items()}
    frozen = scores.get(study.frozen) if study.frozen else None
    lines = []
    for row in study.rows:
        ours, other = scores.get(row), study.local_learning(row)
        same = scores.get(other) if other else None
        lines.append(
            Line(
                row=row,
                rate=rates.get(row),
                held_out={rate: 100 * run.score for rate, run in searches.get(row, {}).items()},
                score=ours,
                frozen=None if row is study.frozen else Lead.of(ours, frozen),
                same=same,
                local=Lead.of(ours, same),
                compared=other is not None,
                quantities=_quantities(ours, read),
            )
        )
    return Filled(study, setting, tuple(lines))


def _quantities(score: Score | None, read: ReadMetrics) -> dict[str, float]:
    """The means over runs of what they have logged; memory in MB."""
    runs = score.runs if score else ()
    found = [
        {name: read(run.path).filter(regex=f"^{begin}").stack().mean() for name, begin in LOGGED.items()}
        | {"seconds": run.seconds}
        for run in runs
    ]
    means = pd.DataFrame(found, dtype=float).mean().dropna().to_dict()
    return {name: value / 1e6 if name == "memory" else value for name, value in means.items()}


def _rate(runs: Iterable[Run], search: Mapping[float, Run]) -> float | None:
    """The best learning rate; without a search, that of most seeds."""
    if len(search) > 1:
        return max(search, key=lambda rate: (search[rate].score, -search[rate].test_loss))
    counts = Counter(run.recipe["lr"] for run in runs if not searched(run))
    return counts.most_common(1)[0][0] if counts else None


def _score(runs: Iterable[Run], rate: float | None) -> Score | None:
    """The test accuracy of the runs at a learning rate."""
    by_seed = {run.seed: run for run in runs if run.recipe["lr"] == rate and not searched(run)}
    ordered = [by_seed[seed] for seed in sorted(by_seed)]
    return Score.of(ordered, [100 * run.score for run in ordered]) if ordered else None


def as_frame(studies: Iterable[Filled]) -> pd.DataFrame:
    """A line for each estimator and scale; accuracies in percent, differences in points."""
    return pd.DataFrame(line for filled in studies for line in _records(filled))


def _records(filled: Filled) -> Iterator[dict[str, object]]:
    for line in filled.lines:
        leads = {"frozen": line.frozen, "local_learning": line.local}
        yield {
            "study": filled.study.name,
            "scale": filled.scale,
            "estimator": line.row.label,
            "overrides": line.row.overrides,
            "lr": line.rate,
            "at_edge": line.at_edge,
            **{name: round(value, 5) for name, value in line.quantities.items()},
            "mean": line.score and round(line.score.mean, 4),
            "std": line.score and line.score.std and round(line.score.std, 4),
            "seeds": line.score and len(line.score.seeds),
            "accuracies": line.score and " ".join(f"{100 * run.score:.2f}" for run in line.score.runs),
            "held_out": " ".join(f"{rate:g}:{accuracy:.2f}" for rate, accuracy in sorted(line.held_out.items())),
            **{f"over_{name}": lead and round(lead.mean, 4) for name, lead in leads.items()},
            **{f"over_{name}_std": lead and lead.std and round(lead.std, 4) for name, lead in leads.items()},
            **{f"over_{name}_answer": lead and lead.answer for name, lead in leads.items()},
        }
