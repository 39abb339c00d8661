"""What the runs at hand say about a claim, and what the paper's own numbers say."""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache, cached_property, partial
from itertools import groupby
from operator import attrgetter
from typing import Literal

from fglight.paper import rows_by_cell
from fglight.paper.claims import ACCURACY, CLAIMS, Claim, Comparison, Quantity
from fglight.report.metrics import ReadMetrics
from fglight.report.quantities import Measure, measure
from fglight.report.scores import FULL, Score, Scores, Setting, setting_in_words, within_noise
from fglight.words import counted

Answer = Literal["holds", "does not hold", "within noise", "not enough runs"]


@dataclass(frozen=True)
class Compared:
    """A comparison of a claim, with the scores of its quantities as far as they are known."""

    claim: Claim
    comparison: Comparison
    scores: tuple[Score | None, ...]

    @property
    def sides(self) -> list[tuple[Quantity, Score | None]]:
        """Each quantity with its score."""
        return list(zip(self.comparison.quantities, self.scores))

    @property
    def lead(self) -> float:
        """What comes out: the sum of what counts as plus less that of what counts as minus."""
        plus = len(self.comparison.plus)
        return sum(score.mean for score in self.scores[:plus]) - sum(score.mean for score in self.scores[plus:])

    @property
    def single(self) -> bool:
        """Whether a number in it has one seed, whose noise is not known."""
        return any(score and score.std is None for score in self.scores)

    @property
    def outcome(self) -> Answer:
        """``within noise`` where a bound is no farther off than all the standard deviations together."""
        if None in self.scores:
            return "not enough runs"
        room = min(self.lead - self.claim.least, self.claim.most - self.lead)
        return "within noise" if within_noise(room, self.scores) else "holds" if room > 0 else "does not hold"


@dataclass(frozen=True)
class Finding:
    """A claim's comparisons on one data set and number of blocks, from runs of one setting or from print."""

    claim: Claim
    where: str
    setting: Setting
    comparisons: tuple[Compared, ...]
    paper: "Finding | None" = None

    @property
    def scale(self) -> str:
        """The setting in words."""
        return setting_in_words(self.setting)

    @cached_property
    def made(self) -> list[Compared]:
        """The comparisons of which all numbers are known."""
        return [compared for compared in self.comparisons if None not in compared.scores]

    @cached_property
    def counts(self) -> Counter[Answer]:
        """How many comparisons have each outcome."""
        return Counter(compared.outcome for compared in self.comparisons)

    @property
    def count(self) -> str:
        """How many comparisons hold, are within noise, and cannot be made, in words."""
        hold = "holds" if len(self.made) == 1 else "hold"
        words = [f"{self.counts['holds']} of {counted(len(self.made), 'comparison')} {hold}"]
        if noise := self.counts["within noise"]:
            words.append(f"{noise} {'is' if noise == 1 else 'are'} within noise")
        if missing := self.counts["not enough runs"]:
            words.append(f"{missing} cannot be made")
        return ", ".join(words)

    @property
    def single(self) -> bool:
        """Whether numbers of one seed, whose noise is not known, are among those compared."""
        return any(compared.single for compared in self.made)

    @property
    def answer(self) -> Answer:
        """``holds``, ``does not hold`` and ``within noise`` only where the runs still missing cannot change it."""
        total, missing = len(self.comparisons), self.counts["not enough runs"]
        holding, failing = self.counts["holds"], self.counts["does not hold"]
        enough = {"all": total, "most": total // 2 + 1, "some": 1}[self.claim.of]
        too_many = total - enough + 1
        if holding >= enough:
            return "holds"
        if failing >= too_many:
            return "does not hold"
        decided = holding + missing < enough and failing + missing < too_many
        return "within noise" if decided else "not enough runs"


@dataclass(frozen=True)
class Verdict:
    """A claim with the paper's own numbers and with ours; ``unknown`` names where nothing can be compared yet."""

    claim: Claim
    paper: Finding
    findings: tuple[Finding, ...]
    unknown: tuple[str, ...]

    @property
    def rank(self) -> int:
        """0 where the runs decide something, 1 where some comparisons are made, 2 where none is."""
        decided = any(finding.answer != "not enough runs" for finding in self.findings)
        return 0 if decided else 1 if self.findings else 2


def judge_all(scores: Scores, read: ReadMetrics) -> tuple[Verdict, ...]:
    """Judge the paper's claims; first come those that the runs decide, last those that they say nothing of."""
    return tuple(sorted((judge(claim, scores, read) for claim in CLAIMS), key=attrgetter("rank")))


def judge(claim: Claim, scores: Scores, read: ReadMetrics) -> Verdict:
    """Make a claim's comparisons: from full-scale runs, and from scaled-down ones where no full-scale ones can be.

    Args:
        claim: one of the paper's claims.
        scores: the finished runs.
        read: gives a run directory's metrics, as ``read_metrics`` does.
    """
    findings: list[Finding] = []
    unknown: list[str] = []
    seen: set[frozenset[object]] = set()
    for where, comparisons in groups(claim):
        candidates = [finding for finding in _findings(claim, where, comparisons, scores, read) if finding.made]
        if candidates and candidates[0].setting == FULL:
            candidates = candidates[:1]
        # Runs on other data stand for the same cell of several data sets: say once what they say.
        fresh = [finding for finding in candidates if _runs(finding) not in seen]
        seen.update(map(_runs, fresh))
        findings.extend(fresh)
        if not candidates:
            unknown.append(where)
    findings.sort(key=lambda finding: finding.answer == "not enough runs")
    return Verdict(claim, _printed(claim, "", claim.comparisons), tuple(findings), tuple(unknown))


def groups(claim: Claim) -> Iterator[tuple[str, list[Comparison]]]:
    """Split the comparisons by data set and number of blocks, unless that is what they compare."""
    ordered = sorted(claim.comparisons, key=attrgetter("where"))
    for (data, blocks), comparisons in groupby(ordered, key=attrgetter("where")):
        yield f"{data}, {blocks} blocks" if blocks else data, list(comparisons)


def _findings(
    claim: Claim, where: str, comparisons: list[Comparison], scores: Scores, read: ReadMetrics
) -> Iterator[Finding]:
    """A finding for each setting that occurs, the full-scale one first."""
    paper = _printed(claim, where, comparisons)
    cells = {quantity.cell for comparison in comparisons for quantity in comparison.quantities}
    for setting in sorted({name for cell in cells for name in scores.by_cell.get(cell, {})}):
        known = cache(partial(measure, setting=setting, scores=scores, read=read))
        yield Finding(claim, where, setting, _compare(claim, comparisons, known), paper)


def _printed(claim: Claim, where: str, comparisons: Iterable[Comparison]) -> Finding:
    """Judge by the published numbers, as far as they are printed; a figure prints none."""
    return Finding(claim, where, FULL, _compare(claim, comparisons, _published))


def _published(quantity: Quantity) -> Score | None:
    row = rows_by_cell().get(quantity.cell) if quantity.metric == ACCURACY else None
    return Score(row.mean, row.std, tuple(range(row.seeds)), ()) if row and row.mean is not None else None


def _compare(claim: Claim, comparisons: Iterable[Comparison], known: Measure) -> tuple[Compared, ...]:
    return tuple(Compared(claim, comparison, tuple(map(known, comparison.quantities))) for comparison in comparisons)


def _runs(finding: Finding) -> frozenset[object]:
    """The runs that a finding rests on."""
    return frozenset(run.path for pair in finding.made for score in pair.scores for run in score.runs)
