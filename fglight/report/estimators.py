"""Studies filled in: each estimator beside frozen blocks and beside local learning with the same auxiliary networks."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from statistics import fmean, mode
from typing import Literal

import pandas as pd
from omegaconf import OmegaConf

from fglight.log_names import ALIGNMENT, DERIVATIVES, EXACT_DERIVATIVES, FORWARD_MODE, FORWARDS, MEMORY
from fglight.report.intervals import Estimate, Word, told
from fglight.report.results import Scale, Score, accuracies, difference_columns, over_common_seeds, score_columns
from fglight.runs.collect import Run
from fglight.runs.settings import OF_COST, differences, settings_of
from fglight.studies import STUDIES, Row, Study, best_rate

CHOSEN = ("optim.lr", "data.holdout")
"""Settings in which runs of an estimator differ that belong together: the search's, and those after it."""

LOGGED = {
    "alignment": ALIGNMENT,
    "derivatives": DERIVATIVES,
    "exact": EXACT_DERIVATIVES,
    "forward_mode": FORWARD_MODE,
    "forwards": FORWARDS,
    "memory": MEMORY,
}
"""What runs with ``measure=true`` log, of the whole network or by block."""

Answer = Word | Literal["rate at the edge", "not run"]


@dataclass(frozen=True)
class Lead:
    """How far an estimator's test accuracy is above another's, in points, over the seeds that both have.

    Attributes:
        other: the other's score.
        difference: the mean of the differences, with its interval; None where no seed has both.
        answer: what it tells, corrected for the number of estimators that are compared alike. Nothing where one of the
            two is best at the largest or smallest learning rate searched: beyond it, it may be better.
    """

    other: Score | None
    difference: Estimate | None
    answer: Answer


@dataclass(frozen=True)
class Line:
    """An estimator of a study at one scale.

    Attributes:
        row: the estimator.
        rate: its learning rate, the best on held-out images; where none was searched, that of most runs; None where no
            run tells.
        held_out: the mean accuracy on these, in percent, by the learning rates that were searched.
        chose: the seeds that it was searched with.
        score: its test accuracy, in percent.
        frozen: how far it is above frozen blocks; None where it is these, or there are none.
        local: how far it is above local learning with the same auxiliary networks; None where there is no such one.
    """

    row: Row
    rate: float | None
    held_out: Mapping[float, float]
    score: Score | None
    frozen: Lead | None = None
    local: Lead | None = None
    chose: frozenset[int] = frozenset()

    @property
    def searched(self) -> bool:
        """Whether the rate is the best of several, and not just the one that its runs had."""
        return len(self.held_out) > 1

    @property
    def at_edge(self) -> bool:
        """Whether the rate is the largest or smallest of several, so that one beyond may be better."""
        return self.searched and self.rate in (min(self.held_out), max(self.held_out))

    @property
    def rate_in_words(self) -> str:
        """The rate, with a mark where it is at the edge, was not searched, or was chosen by a seed that tells, too."""
        if self.rate is None:
            return ""
        marks = {
            "*": self.at_edge,
            "†": not self.searched,
            "‡": self.score and self.chose.intersection(self.score.seeds),
        }
        return str(self.rate) + "".join(mark for mark, holds in marks.items() if holds)

    @cached_property
    def quantities(self) -> Mapping[str, float]:
        """What a step of it takes and is worth, as far as its runs have logged it; means over them.

        ``QUANTITIES``; ``exact``, how many derivatives are the exact gradient of a single number; ``alignment``, the
        cosine similarity of its estimate and the exact gradient, a mean over blocks, training and seeds.
        """
        found = [
            {name: run.metrics.filter(regex=rf"^{logged}(/|$)").stack().mean() for name, logged in LOGGED.items()}
            | {"seconds": run.seconds}
            for run in (self.score.runs if self.score else ())
        ]
        means = pd.DataFrame(found, dtype=float).mean().dropna().to_dict()
        return {name: value / 1e6 if name == "memory" else value for name, value in means.items()}

    def of(self, quantity: str) -> float | None:
        """One of the quantities; None where it is not known."""
        return self.quantities.get(quantity)

    @property
    def derivatives(self) -> str:
        """How many there are a step, and how many of them are exact: ``704 (512 exact)``."""
        taken, exact = (self.of(name) or 0 for name in ("derivatives", "exact"))
        return f"{taken:,.0f}" + (f" ({exact:,.0f} exact)" if exact else "")


@dataclass(frozen=True)
class Filled:
    """A study at one scale: data set, width, epochs and all else that its runs share."""

    study: Study
    scale: Scale
    lines: tuple[Line, ...]

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


def fill(study: Study, runs: Iterable[Run]) -> tuple[Filled, ...]:
    """Put the runs of a study's estimators in its rows, for each scale; that with most runs comes first.

    An estimator's runs are those at its best learning rate, by accuracy and then by loss on held-out images. A scale
    all of whose runs are estimators of other studies is none.

    Args:
        study: the study.
        runs: finished runs of any kind.
    """
    scales: dict[Scale, dict[Row, list[Run]]] = {}
    for run in runs:
        if (row := _row_of(study, run)) is not None:
            scales.setdefault(_scale_in_study(row, run), {}).setdefault(row, []).append(run)
    own = {
        scale: found
        for scale, found in scales.items()
        if not all(_told_better(row, run) for row, alike in found.items() for run in alike)
    }
    ordered = sorted(own, key=lambda scale: -sum(map(len, own[scale].values())))
    return tuple(_fill(study, scale, own[scale]) for scale in ordered)


def searched(run: Run) -> bool:
    """Whether a run is judged on images held out, for a search."""
    return "data.holdout" in run.differences


def _row_of(study: Study, run: Run) -> Row | None:
    """The row that a run belongs to: of those that it has all the settings of, the one with most."""
    if run.metric != "accuracy":
        return None
    cell = replace(run.cell, data="", blocks=8, width=1.0)
    differing = {name: str(value) for name, value in run.differences.items()}.items()
    alike = [row for row in study.rows if row.cell("") == cell and _settings(row).items() <= differing]
    return max(alike, key=lambda row: len(_settings(row)), default=None)


def _told_better(row: Row, run: Run) -> bool:
    """Whether a row of any study has more of the settings that a run's result is of than the one that it is in."""
    others = (_row_of(study, run) for study in STUDIES.values())
    return any(other and len(_settings(other).keys() - OF_COST) > len(_settings(row)) for other in others)


def _scale_in_study(row: Row, run: Run) -> Scale:
    """What a run was trained on and how, its row and its learning rate aside."""
    scale = Scale.of(run, {*_settings(row), *CHOSEN}).with_width(run.cell.width)
    return scale if run.cell.blocks == row.cell("").blocks else scale.with_settings(blocks=str(run.cell.blocks))


@cache
def _settings(row: Row) -> dict[str, str]:
    """How a row's components depart from the paper's, as its runs record; those not in the paper are as they ship."""
    chosen = OmegaConf.from_dotlist([f"{name}={value}" for name, value in row.settings.items()])
    cfg = OmegaConf.merge(settings_of(row.cell("digits")), chosen)
    return {name: str(value) for name, value in differences(cfg).items()}


def _fill(study: Study, scale: Scale, found: Mapping[Row, list[Run]]) -> Filled:
    lines = {row: _line(row, [run for run in found.get(row, ()) if "lr" in run.recipe]) for row in study.rows}
    frozen = {row: study.frozen for row in study.rows if study.frozen and row != study.frozen}
    local = {row: other for row in study.rows if (other := study.local_learning(row))}
    over_frozen, over_local = (
        _leads({row: (lines[row], lines[other]) for row, other in pairs.items()}) for pairs in (frozen, local)
    )
    return Filled(
        study,
        scale,
        tuple(replace(line, frozen=over_frozen.get(row), local=over_local.get(row)) for row, line in lines.items()),
    )


def _line(row: Row, runs: Sequence[Run]) -> Line:
    """An estimator with the test accuracies of its runs at the best learning rate; without a search, at most seeds'."""
    search: dict[float, list[Run]] = {}
    for run in runs:
        if searched(run):
            search.setdefault(run.recipe["lr"], []).append(run)
    most = max(map(len, search.values()), default=0)
    search = {rate: found for rate, found in search.items() if len(found) == most}
    # Of runs that differ in cost alone the plain one comes last, and counts.
    final = sorted((run for run in runs if not searched(run)), key=lambda run: -len(run.differences))
    if len(search) > 1:
        rate = best_rate({rate: [(run.score, run.test_loss) for run in found] for rate, found in search.items()})
    else:
        rate = mode(run.recipe["lr"] for run in runs if not searched(run)) if final else None
    chosen = {run.seed: run for run in final if run.recipe["lr"] == rate}
    held_out = {rate: 100 * fmean(run.score for run in found) for rate, found in search.items()}
    seeds = frozenset(run.seed for found in search.values() for run in found)
    return Line(row, rate, held_out, accuracies(chosen.values()) if chosen else None, chose=seeds)


def _leads(pairs: Mapping[Row, tuple[Line, Line]]) -> dict[Row, Lead]:
    """How far each row is above the other of its pair."""
    leads = {row: over_common_seeds([one.score], [other.score]) for row, (one, other) in pairs.items()}
    known = {row: lead for row, lead in leads.items() if lead}
    answers: dict[Row, Answer] = dict.fromkeys(pairs, "not run")
    for (row, lead), word in zip(known.items(), told([*known.values()])):
        edge = not lead.lack and any(line.at_edge for line in pairs[row])
        answers[row] = "rate at the edge" if edge else word
    return {row: Lead(pairs[row][1].score, lead, answers[row]) for row, lead in leads.items()}


def as_frame(studies: Iterable[Filled]) -> pd.DataFrame:
    """A line for each estimator and scale; accuracies in percent, differences in points."""
    return pd.DataFrame(line for filled in studies for line in _records(filled))


def _records(filled: Filled) -> Iterator[dict[str, object]]:
    for line in filled.lines:
        leads = {"frozen": line.frozen, "local_learning": line.local}
        yield {
            "study": filled.study.name,
            "scale": str(filled.scale),
            "estimator": line.row.label,
            "overrides": line.row.overrides,
            "lr": line.rate,
            "at_edge": line.at_edge,
            **line.quantities,
            **score_columns(line.score),
            "held_out": " ".join(f"{rate:g}:{accuracy:.5f}" for rate, accuracy in sorted(line.held_out.items())),
            **{
                f"over_{name}_{what}": value
                for name, lead in leads.items()
                if lead
                for what, value in {**difference_columns(lead.difference), "answer": lead.answer}.items()
            },
        }
