"""What the runs at hand say about a claim, and what the paper's own numbers say."""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import groupby, product
from operator import attrgetter
from typing import Literal

from fglight.log_names import ACCURACY
from fglight.paper import rows_by_cell
from fglight.paper.claims import CLAIMS, Claim, Comparison, Quantity
from fglight.report.intervals import LEVEL, Estimate, Lack, holm
from fglight.report.results import FULL, Results, Scale, Score, over_common_seeds, trained_as, with_deviation
from fglight.text import counted

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
    def sides(self) -> list[tuple[Quantity, str]]:
        """Each quantity with its score, in words."""
        return [
            (one, with_deviation(score.mean, score.std, (".1f", ".1f") if one.metric == ACCURACY else (".3g", ".2g")))
            for one, score in zip(self.comparison.quantities, self.scores)
        ]

    def __str__(self) -> str:
        """What comes out: points of accuracy, or what the numbers are in."""
        return self.difference.text(".1f" if self.comparison.quantities[0].metric == ACCURACY else ".2g")


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


def judge_all(results: Results, scale: Scale = FULL) -> tuple[Verdict, ...]:
    """Judge the paper's claims by runs at one scale; first come those that are decided.

    A claim of a size, such as a margin in points, is about the paper's own setting. At other scales it is left out, as
    are claims of which no comparison can be made, and runs that are not above chance decide nothing.
    """
    claims = (claim for claim in CLAIMS if scale == FULL or not claim.sized)
    verdicts = (judge(claim, results, scale) for claim in claims)
    return tuple(sorted((one for one in verdicts if scale == FULL or one.findings), key=attrgetter("rank")))


def judge(claim: Claim, results: Results, scale: Scale = FULL) -> Verdict:
    """Make a claim's comparisons by the runs of one scale, and by the paper's own numbers."""

    def printed(comparisons: Iterable[Comparison], where: str = "") -> Finding:
        return Finding(claim, where, tuple(map(_printed, comparisons)))

    findings = [
        Finding(
            claim,
            where,
            tuple(_compared(comparison, results, scale) for comparison in comparisons),
            printed(comparisons, where) if scale == FULL else None,
        )
        for where, comparisons in groups(_at(claim, results, scale))
    ]
    made = sorted((finding for finding in findings if finding.made), key=lambda finding: finding.answer == "open")
    unknown = tuple(finding.where for finding in findings if scale == FULL and not finding.made)
    return Verdict(claim, printed(claim.comparisons), tuple(made), unknown)


def _at(claim: Claim, results: Results, scale: Scale) -> Iterable[Comparison]:
    """What stands at a scale for a claim's comparisons, each once on whatever data the paper has it.

    Any width stands for the paper's 1, unless widths are what is compared.
    """
    found: dict[Comparison, None] = {}
    for width, comparison in product(sorted({1.0, *results.widths(scale)}), claim.comparisons):
        cells = {quantity.cell: trained_as(quantity.cell, scale, width) for quantity in comparison.quantities}
        if all(cells.values()) and (width == 1 or all(cell.width == 1 for cell in cells)):
            sides = (comparison.plus, comparison.minus)
            plus, minus = (tuple(replace(quantity, cell=cells[quantity.cell]) for quantity in side) for side in sides)
            found[Comparison(plus, minus)] = None
    return found


def groups(comparisons: Iterable[Comparison]) -> Iterator[tuple[str, list[Comparison]]]:
    """Split comparisons by data set, number of blocks and width, unless that is what they compare."""
    for words, same in groupby(sorted(comparisons, key=attrgetter("where")), key=attrgetter("where_in_words")):
        yield words, list(same)


def _compared(comparison: Comparison, results: Results, scale: Scale) -> Compared:
    """Make a comparison by our runs, over the seeds that all quantities have."""
    scores = tuple(results.measure(quantity, scale) for quantity in comparison.quantities)
    plus = len(comparison.plus)
    difference = over_common_seeds(scores[:plus], scores[plus:])
    if difference is None:
        return Compared(comparison, scores, None, "not run")
    judged = scale == FULL or all(results.by_scale[scale][one.cell].above_chance for one in comparison.quantities)
    return Compared(comparison, scores, difference, difference.lack or (None if judged else "at chance"))


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
