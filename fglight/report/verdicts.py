"""What the runs at hand say about a claim, and what the paper's own numbers say."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from typing import Literal

from fglight.cell import Cell
from fglight.paper.claims import Claim
from fglight.report.scores import FULL, Score, Scores, Setting, setting_in_words
from fglight.report.tables import rows_by_cell
from fglight.words import counted

Answer = Literal["holds", "does not hold", "not enough runs"]


@dataclass(frozen=True)
class Comparison:
    """Two cells of one claim, with the accuracies that are known; ``lead`` is in points."""

    better: Cell
    worse: Cell
    scores: tuple[Score | None, Score | None]
    margin: float

    @property
    def lead(self) -> float | None:
        """Accuracy of the cell that should be better, minus the other's; None if one is not known."""
        better, worse = self.scores
        return better.mean - worse.mean if better and worse else None

    @property
    def holds(self) -> bool:
        """Whether both are known and the lead exceeds the claim's margin."""
        return self.lead is not None and self.lead > self.margin

    @property
    def clear(self) -> bool:
        """Whether the lead differs from the margin by more than the two standard deviations together."""
        noise = sum(score.std or 0 for score in self.scores if score)
        return self.lead is not None and abs(self.lead - self.margin) > noise


@dataclass(frozen=True)
class Finding:
    """A claim's comparisons on one data set and number of blocks, from runs of one setting or from print."""

    claim: Claim
    where: str
    setting: Setting
    comparisons: tuple[Comparison, ...]
    paper: "Finding | None" = None

    @property
    def scale(self) -> str:
        """The setting in words."""
        return setting_in_words(self.setting)

    @property
    def count(self) -> str:
        """How many comparisons hold, and how many cannot be made, in words."""
        rest = len(self.comparisons) - len(self.made)
        hold = "holds" if len(self.made) == 1 else "hold"
        made = f"{self.holding} of {counted(len(self.made), 'comparison')} {hold}"
        return made + (f", {rest} cannot be made" if rest else "")

    @property
    def made(self) -> list[Comparison]:
        """The comparisons of which both sides have runs."""
        return [comparison for comparison in self.comparisons if comparison.lead is not None]

    @property
    def holding(self) -> int:
        """Number of comparisons that hold."""
        return sum(comparison.holds for comparison in self.made)

    @property
    def answer(self) -> Answer:
        """``holds`` and ``does not hold`` only where the runs still missing cannot change it."""
        total, failing = len(self.comparisons), len(self.made) - self.holding
        if self.claim.most:
            holds, fails = 2 * self.holding > total, 2 * failing >= total
        else:
            holds, fails = self.holding == total, failing > 0
        return "holds" if holds else "does not hold" if fails else "not enough runs"


@dataclass(frozen=True)
class Verdict:
    """A claim with the paper's own numbers and with ours; ``unknown`` names where nothing can be compared yet."""

    claim: Claim
    paper: Finding
    findings: tuple[Finding, ...]
    unknown: tuple[str, ...]


def judge(claim: Claim, scores: Scores) -> Verdict:
    """Compare the cells of a claim: full-scale runs, and scaled-down ones where no full-scale ones can be compared."""
    findings: list[Finding] = []
    unknown: list[str] = []
    seen: set[frozenset[object]] = set()
    for where, pairs in _groups(claim):
        candidates = [finding for finding in _findings(claim, where, pairs, scores) if finding.made]
        if candidates and candidates[0].setting == FULL:
            candidates = candidates[:1]
        # Runs on other data stand for the same cell of several data sets: say once what they say.
        fresh = [finding for finding in candidates if _runs(finding) not in seen]
        seen.update(map(_runs, fresh))
        findings.extend(fresh)
        if not candidates:
            unknown.append(where)
    return Verdict(claim, _printed(claim, "", claim.pairs()), tuple(findings), tuple(unknown))


def _groups(claim: Claim) -> Iterator[tuple[str, list[tuple[Cell, Cell]]]]:
    """Split the pairs by data set and number of blocks, unless that is what a claim compares."""

    def where(pair: tuple[Cell, Cell]) -> tuple[str, int]:
        return pair[0].data, 0 if "blocks" in claim.worse else pair[0].blocks

    for (data, blocks), pairs in groupby(sorted(claim.pairs(), key=where), key=where):
        yield f"{data}, {blocks} blocks" if blocks else data, list(pairs)


def _findings(claim: Claim, where: str, pairs: list[tuple[Cell, Cell]], scores: Scores) -> Iterator[Finding]:
    """A finding for each setting that occurs, the full-scale one first."""
    paper = _printed(claim, where, pairs)
    for setting in sorted({name for pair in pairs for cell in pair for name in scores.by_cell.get(cell, {})}):
        known = {cell: scores.by_cell.get(cell, {}).get(setting) for pair in pairs for cell in pair}
        yield Finding(claim, where, setting, _compare(claim, pairs, known), paper)


def _printed(claim: Claim, where: str, pairs: list[tuple[Cell, Cell]]) -> Finding:
    """Judge by the published numbers, as far as they are printed."""
    known = {cell: Score(row.mean, row.std, tuple(range(row.seeds)), ()) for cell, row in rows_by_cell().items()}
    return Finding(claim, where, FULL, _compare(claim, pairs, known))


def _compare(
    claim: Claim, pairs: list[tuple[Cell, Cell]], known: Mapping[Cell, Score | None]
) -> tuple[Comparison, ...]:
    return tuple(
        Comparison(better, worse, (known.get(better), known.get(worse)), claim.margin) for better, worse in pairs
    )


def _runs(finding: Finding) -> frozenset[object]:
    """The runs that a finding rests on."""
    return frozenset(run.path for pair in finding.made for score in pair.scores if score for run in score.runs)
