"""What counts as a difference: 95 % intervals of means over seeds, and the words for what they tell.

Tables, claims, studies and findings all ask here. The distributions are scipy's.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf, isfinite
from statistics import fmean, stdev
from typing import Literal

from scipy import stats

LEVEL = 0.05
"""How often a verdict may be given where there is no difference."""

ENOUGH = 3
"""The seeds from which on an interval gives a verdict."""

Lack = Literal["one run", "two seeds"]
Word = Literal["more", "less", "not told apart", "one run", "two seeds"]


@dataclass(frozen=True)
class Estimate:
    """A number over seeds, such as a difference of two means, and how well it is known.

    Attributes:
        mean: the number.
        error: its standard error; None where one run gives none.
        freedom: degrees of freedom of its t distribution.
        seeds: how many seeds it is from, the fewest of all that it is made of.
        values: those of the single seeds, where each has one.
    """

    mean: float
    error: float | None
    freedom: float
    seeds: int
    values: tuple[float, ...] = ()

    @classmethod
    def of(cls, values: Sequence[float]) -> "Estimate":
        """The mean of one value a seed; of differences on common seeds, this is Student's paired comparison."""
        n = len(values)
        error = stdev(values) / n**0.5 if n > 1 else None
        return cls(fmean(values), error, n - 1, n, tuple(values))

    @classmethod
    def printed(cls, mean: float, std: float | None, seeds: int) -> "Estimate":
        """A mean as it is printed, with its standard deviation over seeds (n - 1); without one it is of one run."""
        if std is None or seeds < 2:
            return cls(mean, None, 0, 1)
        return cls(mean, std / seeds**0.5, seeds - 1, seeds)

    @classmethod
    def apart(cls, plus: Sequence["Estimate"], minus: Sequence["Estimate"] = ()) -> "Estimate":
        """The sum of some means less that of others, all of different runs.

        The variance is the sum of theirs, its degrees of freedom are Satterthwaite's (Welch 1947, Biometrika 34).
        """
        terms = [*plus, *minus]
        mean = sum(term.mean for term in plus) - sum(term.mean for term in minus)
        seeds = min(term.seeds for term in terms)
        if any(term.error is None for term in terms):
            return cls(mean, None, 0, 1)
        variance = sum(term.error**2 for term in terms)
        spread = sum(term.error**4 / term.freedom for term in terms)
        freedom = variance**2 / spread if spread else sum(term.freedom for term in terms)
        return cls(mean, variance**0.5, freedom, seeds)

    @property
    def lack(self) -> Lack | None:
        """Why it gives no verdict; None where it does."""
        return "one run" if self.error is None else "two seeds" if self.seeds < ENOUGH else None

    def interval(self, level: float = 1 - LEVEL) -> tuple[float, float]:
        """The interval that holds the true number in so many cases; from minus to plus infinity for one run."""
        if self.error is None:
            return -inf, inf
        if self.error == 0:
            return self.mean, self.mean
        low, high = stats.t.interval(level, self.freedom, loc=self.mean, scale=self.error)
        return float(low), float(high)

    def above(self, bound: float) -> float:
        """The one-sided p value of lying above a bound."""
        if self.error is None:
            return 1.0
        if self.error == 0 or not isfinite(bound):
            return float(self.mean <= bound)
        return float(stats.t.sf((self.mean - bound) / self.error, self.freedom))

    def below(self, bound: float) -> float:
        """The one-sided p value of lying below a bound."""
        return Estimate(-self.mean, self.error, self.freedom, self.seeds).above(-bound)

    def inside(self, least: float, most: float) -> float:
        """The p value of lying between two bounds.

        Of one bound, at most ``LEVEL`` where the 95 % interval leaves it out; of two, by two one-sided tests
        (Schuirmann 1987, J. Pharmacokinet. Biopharm. 15).
        """
        worse = max(self.above(least), self.below(most))
        return worse if isfinite(least) and isfinite(most) else min(1.0, 2 * worse)

    def outside(self, least: float, most: float) -> float:
        """The p value of lying beyond one of two bounds: at most ``LEVEL`` where the 95 % interval does."""
        return min(1.0, 2 * min(self.below(least), self.above(most)))

    def __str__(self) -> str:
        """``text`` of points of accuracy."""
        return self.text(".1f")

    def text(self, form: str) -> str:
        """Write it with its interval, ``+1.5 [0.4, 2.7]``; of two seeds both values, of one run its value."""
        if not self.lack:
            low, high = (_number(bound, form) for bound in self.interval())
            return f"{_number(self.mean, f'+{form}')} [{low}, {high}]"
        both = self.values if len(self.values) == 2 else (self.mean,)
        return ", ".join(_number(value, f"+{form}") for value in both)


def holm(values: Sequence[float]) -> list[float]:
    """The p values of several questions, each corrected for the number of them (Holm 1979, Scand. J. Stat. 6)."""
    corrected, worst = [1.0] * len(values), 0.0
    for asked, index in enumerate(sorted(range(len(values)), key=values.__getitem__)):
        worst = max(worst, min(1.0, (len(values) - asked) * values[index]))
        corrected[index] = worst
    return corrected


def told(differences: Sequence[Estimate]) -> list[Word]:
    """The word for each of several differences, corrected for how many of them are asked about."""
    asked = [difference for difference in differences if not difference.lack]
    corrected = iter(holm([difference.outside(0, 0) for difference in asked]))
    return [difference.lack or _word(difference, next(corrected)) for difference in differences]


def _word(difference: Estimate, p: float) -> Word:
    return "not told apart" if p > LEVEL else "more" if difference.mean > 0 else "less"


def _number(value: float, form: str) -> str:
    rounded = format(value, form)
    return rounded.replace("-", "−" if float(rounded) else "+" if form[0] == "+" else "")
