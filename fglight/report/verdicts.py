"""What the runs at hand say about a claim, and what the paper's own numbers say."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property, partial
from itertools import groupby
from operator import attrgetter
from typing import Literal

from fglight.paper import rows_by_cell
from fglight.paper.claims import ACCURACY, CLAIMS, Claim, Comparison, Quantity
from fglight.report.intervals import LEVEL, Estimate, Lack, holm
from fglight.report.metrics import ReadMetrics
from fglight.report.quantities import measure
from fglight.report.scores import FULL, Scale, Score, Scores, trained_as
from fglight.words import counted

Answer = Literal["holds", "does not hold", "open"]
Outcome = Literal["holds", "does not hold", "not told apart", "at chance", "two seeds", "one run", "not run"]


@dataclass(frozen=True)
class Compared:
    """A comparison of a claim.

    Attributes:
        comparison: what is compared.
        scores: of our runs for each of its quantities, as far as there are any; empty for the paper's own numbers.
        difference: what comes out, over the seeds that all quantities have; None where there is none.
        lack: why it gives no verdict; None where it does.
    """

    comparison: Comparison
    scores: tuple[Score | None, ...]
    difference: Estimate | None
    lack: Lack | Literal["at chance", "not run"] | None

    @property
    def sides(self) -> list[tuple[Quantity, Score]]:
        """Each quantity with its score."""
        return list(zip(self.comparison.quantities, self.scores))


@dataclass(frozen=True)
class Finding:
    """A claim's comparisons at one place: ``where`` is a data set and a number of blocks, or empty for all together."""

    claim: Claim
    where: str
    comparisons: tuple[Compared, ...]
    paper: "Finding | None" = None

    @cached_property
    def made(self) -> list[tuple[Compared, Outcome]]:
        """The comparisons of which all numbers are known, with what comes out of each.

        One of all that must hold is held against its own interval, since all the others must hold, too; where fewer
        are enough, each is corrected for the number of them that there are, by Holm's method. So is one that does not
        hold where one such refutes the claim.
        """
        made = [compared for compared in self.comparisons if compared.lack != "not run"]
        judged = [compared.difference for compared in made if not compared.lack]
        bounds = self.claim.least, self.claim.most
        hold = [difference.inside(*bounds) for difference in judged]
        fail = [difference.outside(*bounds) for difference in judged]
        if self._enough < len(self.comparisons):
            hold = holm(hold)
        if self._too_many < len(self.comparisons):
            fail = holm(fail)
        outcomes: Iterator[Outcome] = (
            "holds" if holds <= LEVEL else "does not hold" if fails <= LEVEL else "not told apart"
            for holds, fails in zip(hold, fail)
        )
        return [(compared, compared.lack or next(outcomes)) for compared in made]

    @cached_property
    def counts(self) -> Counter[Outcome]:
        """How many comparisons come out how."""
        missing = len(self.comparisons) - len(self.made)
        return Counter([outcome for _, outcome in self.made] + ["not run"] * missing)

    @property
    def count(self) -> str:
        """How many comparisons come out how, in words."""
        made = self.counts.total() - self.counts["not run"]
        words = [f"{self.counts['holds']} of {counted(made, 'comparison')} {'holds' if made == 1 else 'hold'}"]
        told: dict[Outcome, str] = {
            "does not hold": "does not" if self.counts["does not hold"] == 1 else "do not",
            "not told apart": "not told apart",
            "at chance": "not above chance",
            "two seeds": "of two seeds",
            "one run": "of one run",
            "not run": "not run",
        }
        return ", ".join(words + [f"{self.counts[name]} {text}" for name, text in told.items() if self.counts[name]])

    @property
    def _enough(self) -> int:
        """How many comparisons must hold."""
        total = len(self.comparisons)
        return {"all": total, "most": total // 2 + 1, "some": 1}[self.claim.of]

    @property
    def _too_many(self) -> int:
        """How many that do not hold refute the claim."""
        return len(self.comparisons) - self._enough + 1

    @property
    def answer(self) -> Answer:
        """What the claim comes to here; ``open`` where neither enough comparisons hold nor too many do not."""
        if self.counts["holds"] >= self._enough:
            return "holds"
        return "does not hold" if self.counts["does not hold"] >= self._too_many else "open"


@dataclass(frozen=True)
class Verdict:
    """A claim with the paper's own numbers and with ours; ``unknown`` names where nothing can be compared yet."""

    claim: Claim
    paper: Finding
    findings: tuple[Finding, ...]
    unknown: tuple[str, ...] = ()

    @property
    def rank(self) -> int:
        """0 where the runs decide something, 1 where some comparisons are made, 2 where none is."""
        decided = any(finding.answer != "open" for finding in self.findings)
        return 0 if decided else 1 if self.findings else 2


def judge_all(scores: Scores, read: ReadMetrics) -> tuple[Verdict, ...]:
    """Judge the paper's claims by runs at its own setting; first come those that are decided."""
    return tuple(sorted((judge(claim, scores, read) for claim in CLAIMS), key=attrgetter("rank")))


def judge(claim: Claim, scores: Scores, read: ReadMetrics) -> Verdict:
    """Make a claim's comparisons by runs at the paper's own setting.

    Args:
        claim: one of the paper's claims.
        scores: the finished runs.
        read: gives a run directory's metrics, as ``read_metrics`` does.
    """
    findings = []
    for where, comparisons in groups(claim.comparisons):
        paper = Finding(claim, where, tuple(map(_printed, comparisons)))
        findings.append(Finding(claim, where, _compare(comparisons, FULL, scores, read), paper))
    made = sorted((finding for finding in findings if finding.made), key=lambda finding: finding.answer == "open")
    unknown = tuple(finding.where for finding in findings if not finding.made)
    return Verdict(claim, Finding(claim, "", tuple(map(_printed, claim.comparisons))), tuple(made), unknown)


def judge_scaled(scale: Scale, scores: Scores, read: ReadMetrics) -> tuple[Verdict, ...]:
    """Make the claims' comparisons by runs that are scaled down alike, and above chance.

    A claim of a size, such as a margin in points, is about the paper's own setting and left out.

    Args:
        scale: what was trained, and how.
        scores: the finished runs.
        read: gives a run directory's metrics, as ``read_metrics`` does.

    Returns:
        The claims of which a comparison can be made; first come those that are decided.
    """
    verdicts = []
    for claim in CLAIMS:
        if not claim.sized:
            paper = Finding(claim, "", tuple(map(_printed, claim.comparisons)))
            found = (
                Finding(claim, where, _compare(comparisons, scale, scores, read))
                for where, comparisons in groups(_at(claim, scale, scores))
            )
            made = sorted((one for one in found if one.made), key=lambda finding: finding.answer == "open")
            verdicts.append(Verdict(claim, paper, tuple(made)))
    return tuple(sorted((one for one in verdicts if one.findings), key=attrgetter("rank")))


def _at(claim: Claim, scale: Scale, scores: Scores) -> list[Comparison]:
    """What stands at a scale for a claim's comparisons, each once on whatever data the paper has it.

    Any width stands for the paper's 1, unless widths are what is compared.
    """
    found: dict[Comparison, None] = {}
    for width in sorted({1.0, *(cell.width for cell in scores.by_scale[scale])}):
        for comparison in claim.comparisons:
            if width == 1 or all(quantity.cell.width == 1 for quantity in comparison.quantities):
                sides = (comparison.plus, comparison.minus)
                trained = [[(quantity, trained_as(quantity.cell, scale, width)) for quantity in side] for side in sides]
                if all(cell for side in trained for _, cell in side):
                    plus, minus = (tuple(replace(quantity, cell=cell) for quantity, cell in side) for side in trained)
                    found[Comparison(plus, minus)] = None
    return list(found)


def groups(comparisons: Iterable[Comparison]) -> Iterator[tuple[str, list[Comparison]]]:
    """Split comparisons by data set, number of blocks and width, unless that is what they compare."""
    for words, same in groupby(sorted(comparisons, key=attrgetter("where")), key=attrgetter("where_in_words")):
        yield words, list(same)


def _compare(
    comparisons: Iterable[Comparison], scale: Scale, scores: Scores, read: ReadMetrics
) -> tuple[Compared, ...]:
    """Make comparisons by our runs."""
    known = cache(partial(measure, scale=scale, scores=scores, read=read))

    def above_chance(quantity: Quantity) -> bool:
        return scale == FULL or scores.by_scale[scale][quantity.cell].above_chance

    return tuple(_compared(comparison, known, above_chance) for comparison in comparisons)


def _compared(
    comparison: Comparison, known: Callable[[Quantity], Score | None], above_chance: Callable[[Quantity], bool]
) -> Compared:
    scores = tuple(map(known, comparison.quantities))
    values = _on_common_seeds(scores, len(comparison.plus))
    if not values:
        return Compared(comparison, scores, None, "not run")
    difference = Estimate.of(values)
    at_chance = not difference.lack and not all(map(above_chance, comparison.quantities))
    return Compared(comparison, scores, difference, "at chance" if at_chance else difference.lack)


def _on_common_seeds(scores: Sequence[Score | None], plus: int) -> list[float]:
    """The sum of the first scores less that of the others, on each seed that all have."""
    if None in scores:
        return []
    seeds = set.intersection(*(set(score.seeds) for score in scores))
    return [
        sum(score.by_seed[seed] for score in scores[:plus]) - sum(score.by_seed[seed] for score in scores[plus:])
        for seed in sorted(seeds)
    ]


def _printed(comparison: Comparison) -> Compared:
    """Judge by the published numbers, as far as they are printed; a figure prints none."""
    terms = [_published(quantity) for quantity in comparison.quantities]
    if None in terms:
        return Compared(comparison, (), None, "not run")
    plus = len(comparison.plus)
    difference = Estimate.apart(terms[:plus], terms[plus:])
    return Compared(comparison, (), difference, difference.lack)


def _published(quantity: Quantity) -> Estimate | None:
    row = rows_by_cell().get(quantity.cell) if quantity.metric == ACCURACY else None
    return Estimate.printed(row.mean, row.std, row.seeds) if row and row.mean is not None else None
