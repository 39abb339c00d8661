"""Studies filled in: each estimator beside frozen blocks and beside local learning with the same auxiliary networks."""

from collections import Counter
from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import pandas as pd

from fglight.report.intervals import Estimate, Word, told
from fglight.report.metrics import ReadMetrics
from fglight.report.scores import Scale, Score, accuracies, apart, by_seed, scale_in_words
from fglight.report.study_matching import row_of, scale_in_study, searched, told_better
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

Answer = Word | Literal["rate at the edge", "not run"]


@dataclass(frozen=True)
class Lead:
    """How far an estimator's test accuracy is above another's, in points, over the seeds that both have.

    Attributes:
        difference: the mean of the differences, with its interval; None where no seed has both.
        answer: what it tells, corrected for the number of estimators that are compared alike. Nothing where one of the
            two is best at the largest or smallest learning rate searched: beyond it, it may be better.
    """

    difference: Estimate | None
    answer: Answer


@dataclass(frozen=True)
class Line:
    """An estimator of a study at one scale.

    Attributes:
        row: the estimator.
        rate: its learning rate, the best on held-out images; where none was searched, that of most runs; None where no
            run tells.
        held_out: the accuracy on these, in percent, by the learning rates that were searched.
        at_edge: whether the rate is the largest or smallest of several, so that one beyond may be better.
        score: its test accuracy, in percent.
        frozen: how far it is above frozen blocks; None where it is these, or there are none.
        same: the score of local learning with the same auxiliary networks.
        local: how far it is above that; None where there is no such local learning.
        quantities: what a step of it takes and is worth, as far as it is known: ``QUANTITIES``; ``exact``, how many
            derivatives are the exact gradient of a single number; ``alignment``, the cosine similarity of its estimate
            and the exact gradient, a mean over blocks, training and seeds.
    """

    row: Row
    rate: float | None
    held_out: Mapping[float, float]
    at_edge: bool
    score: Score | None
    frozen: Lead | None
    same: Score | None
    local: Lead | None
    quantities: Mapping[str, float]

    @property
    def searched(self) -> bool:
        """Whether the rate is the best of several, and not just the one that its runs had."""
        return len(self.held_out) > 1

    def of(self, quantity: str) -> float | None:
        """One of the quantities; None where it is not known."""
        return self.quantities.get(quantity)


@dataclass(frozen=True)
class Filled:
    """A study at one scale: data set, width, epochs and all else that its runs share."""

    study: Study
    scale: Scale
    lines: tuple[Line, ...]

    @property
    def in_words(self) -> str:
        """The scale in words."""
        return scale_in_words(self.scale)

    @property
    def drawn(self) -> bool:
        """Whether there is something to draw: an accuracy and what it is drawn over."""
        return any(line.score and line.of(over) for line in self.lines for over in self.study.over)

    @cached_property
    def local(self) -> Counter[Answer]:
        """How many guesses from auxiliary networks do more, less and so on than local learning with the same ones."""
        return Counter(line.local.answer for line in self.lines if line.local)

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
    scales: dict[Scale, dict[Row, list[Run]]] = {}
    for run in runs:
        if (row := row_of(study, run)) is not None:
            scales.setdefault(scale_in_study(row, run), {}).setdefault(row, []).append(run)
    own = (
        (scale, found)
        for scale, found in scales.items()
        if not all(told_better(row, run) for row, runs_of_row in found.items() for run in runs_of_row)
    )
    ordered = sorted(own, key=lambda of_scale: -sum(map(len, of_scale[1].values())))
    return tuple(_fill(study, scale, found, read) for scale, found in ordered)


def _fill(study: Study, scale: Scale, found: Mapping[Row, list[Run]], read: ReadMetrics) -> Filled:
    found = {row: [run for run in runs if "lr" in run.recipe] for row, runs in found.items()}
    searches = {row: {run.recipe["lr"]: run for run in runs if searched(run)} for row, runs in found.items()}
    rates = {row: _rate(runs, searches[row]) for row, runs in found.items()}
    scores = {row: _score(runs, rates[row]) for row, runs in found.items()}
    at_edge = {row for row, search in searches.items() if len(search) > 1 and rates[row] in (min(search), max(search))}
    local = {row: other for row in study.rows if (other := study.local_learning(row))}
    frozen = {row: study.frozen for row in study.rows if study.frozen and row != study.frozen}
    over_local, over_frozen = (_leads(pairs, scores, at_edge) for pairs in (local, frozen))
    return Filled(
        study,
        scale,
        tuple(
            Line(
                row=row,
                rate=rates.get(row),
                held_out={rate: 100 * run.score for rate, run in searches.get(row, {}).items()},
                at_edge=row in at_edge,
                score=scores.get(row),
                frozen=over_frozen.get(row),
                same=scores.get(local[row]) if row in local else None,
                local=over_local.get(row),
                quantities=_quantities(scores.get(row), read),
            )
            for row in study.rows
        ),
    )


def _leads(pairs: Mapping[Row, Row], scores: Mapping[Row, Score | None], at_edge: Container[Row]) -> dict[Row, Lead]:
    """How far each row is above the other of its pair."""
    differences = {row: _difference(scores.get(row), scores.get(other)) for row, other in pairs.items()}
    leads: dict[Row, Lead] = {}
    for row, difference in differences.items():
        if difference is None:
            leads[row] = Lead(None, "not run")
        elif row in at_edge or pairs[row] in at_edge:
            leads[row] = Lead(difference, difference.lack or "rate at the edge")
    asked = [row for row in pairs if row not in leads]
    words = told([differences[row] for row in asked])
    return leads | {row: Lead(differences[row], word) for row, word in zip(asked, words)}


def _difference(ours: Score | None, other: Score | None) -> Estimate | None:
    """The lead of a score over another; None where no seed has both."""
    if not (ours and other):
        return None
    values = [ours.by_seed[seed] - other.by_seed[seed] for seed in ours.seeds if seed in other.by_seed]
    return Estimate.of(values) if values else None


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
    ordered = sorted(runs, key=lambda run: -len(run.differences))  # of runs that differ in cost alone the plain one
    chosen = {run.seed: run for run in ordered if run.recipe["lr"] == rate and not searched(run)}
    return accuracies(chosen.values()) if chosen else None


def as_frame(studies: Iterable[Filled]) -> pd.DataFrame:
    """A line for each estimator and scale; accuracies in percent, differences in points."""
    return pd.DataFrame(line for filled in studies for line in _records(filled))


def _records(filled: Filled) -> Iterator[dict[str, object]]:
    for line in filled.lines:
        leads = {"frozen": line.frozen, "local_learning": line.local}
        yield {
            "study": filled.study.name,
            "scale": filled.in_words,
            "estimator": line.row.label,
            "overrides": line.row.overrides,
            "lr": line.rate,
            "at_edge": line.at_edge,
            **line.quantities,
            "mean": line.score and line.score.mean,
            "std": line.score and line.score.std,
            "seeds": line.score and len(line.score.seeds),
            "accuracies": line.score and by_seed(line.score),
            "held_out": " ".join(f"{rate:g}:{accuracy:.5f}" for rate, accuracy in sorted(line.held_out.items())),
            **{
                f"over_{name}_{what}": value
                for name, lead in leads.items()
                for what, value in (apart(lead.difference) | {"answer": lead.answer} if lead else {}).items()
            },
        }
