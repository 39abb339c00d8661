"""Intervals against scipy's own tests, and how often their words are wrong or right, by simulation."""

from math import inf

import numpy as np
import pytest
from scipy import stats

from fglight.report.intervals import ENOUGH, LEVEL, Estimate, holm, told

SEEDS = (2, 3, 5, 10)
OURS, OTHER = (79.4, 81.1, 80.2, 82.0, 79.9), (78.1, 80.4, 78.0, 79.5, 79.6)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def test_differences_on_common_seeds_have_students_paired_interval():
    paired = Estimate.of([ours - other for ours, other in zip(OURS, OTHER)])
    scipys = stats.ttest_rel(OURS, OTHER)
    assert paired.interval() == pytest.approx(scipys.confidence_interval())
    assert paired.outside(0, 0) == pytest.approx(scipys.pvalue)
    assert paired.above(0.5) == pytest.approx(
        stats.ttest_1samp(np.subtract(OURS, OTHER), 0.5, alternative="greater").pvalue
    )
    assert paired.below(0.5) == pytest.approx(1 - paired.above(0.5))


@pytest.mark.parametrize("others", [OTHER, OTHER[:3]])
def test_a_printed_mean_is_compared_by_welchs_interval(others):
    printed = Estimate.printed(np.mean(others), np.std(others, ddof=1), len(others))
    difference = Estimate.apart([Estimate.of(OURS)], [printed])
    scipys = stats.ttest_ind(OURS, others, equal_var=False)
    assert difference.interval() == pytest.approx(scipys.confidence_interval())
    assert difference.freedom == pytest.approx(scipys.df)
    assert difference.outside(0, 0) == pytest.approx(scipys.pvalue)
    assert difference.seeds == len(others)


def test_sums_of_means_have_the_sum_of_their_variances():
    terms = [Estimate.printed(mean, std, seeds) for mean, std, seeds in ((9, 3, 4), (5, 2, 3), (4, 1, 2), (2, 0, 4))]
    difference = Estimate.apart(terms[:2], terms[2:])
    variances = (9 / 4, 4 / 3, 1 / 2, 0)
    assert (difference.mean, difference.error**2) == (8, pytest.approx(sum(variances)))
    spread = sum(variance**2 / freedom for variance, freedom in zip(variances, (3, 2, 1, 3)))
    assert difference.freedom == pytest.approx(sum(variances) ** 2 / spread)


def test_two_one_sided_tests_lie_within_a_margin_where_the_90_percent_interval_does():
    difference = Estimate.of(np.subtract(OURS, OTHER))
    low, high = difference.interval(0.9)
    for least, most in ((low - 0.01, high + 0.01), (low + 0.01, high + 0.01), (low - 0.01, high - 0.01)):
        assert (difference.inside(least, most) <= LEVEL) == (least < low and high < most)


@pytest.mark.parametrize("bound", [0.0, 1.4, 5.0])
def test_one_bound_is_kept_or_passed_where_the_95_percent_interval_does(bound):
    difference = Estimate.of(np.subtract(OURS, OTHER))
    low, high = difference.interval()
    assert (difference.inside(bound, inf) <= LEVEL) == (low > bound)
    assert (difference.inside(-inf, bound) <= LEVEL) == (high < bound)
    assert (difference.outside(bound, inf) <= LEVEL) == (high < bound)
    assert (difference.outside(-inf, bound) <= LEVEL) == (low > bound)


@pytest.mark.parametrize("value", [-1.0, 0.0, 1.0])
def test_one_run_tells_nothing_however_far_it_is_off(value):
    for single in (Estimate.of([value]), Estimate.printed(value, None, 4), Estimate.printed(value, 0.3, 1)):
        for difference in (single, Estimate.apart([single], [Estimate.of([1000, 1001, 1002])])):
            assert difference.interval() == (-inf, inf)
            assert (
                min(difference.above(-9), difference.below(9), difference.inside(-9, 9), difference.outside(9, 9)) == 1
            )
            assert told([difference]) == ["one run"]


def test_seeds_that_agree_have_an_interval_without_width():
    assert told([Estimate.of([2.0] * 3), Estimate.of([0.0] * 3), Estimate.of([-2.0] * 3)]) == [
        "more",
        "not told apart",
        "less",
    ]
    assert Estimate.apart([Estimate.of([2.0] * 3)], [Estimate.of([2.0] * 3)]).interval() == (0, 0)


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ([0.6, 1.5, 2.4], "+1.5 [−0.7, 3.7]"),
        ([-0.6, -1.5, -2.4], "−1.5 [−3.7, 0.7]"),
        ([1.25, -0.04], "+1.2, +0.0"),
        ([-1.5], "−1.5"),
    ],
)
def test_an_interval_is_written_beside_its_mean_and_two_seeds_are_both(values, text):
    assert str(Estimate.of(values)) == text


def test_holms_correction_is_that_of_its_paper():
    # Sorted: 0.01 * 4, 0.02 * 3, 0.03 * 2 but no less than the one before, 0.6.
    assert holm([0.6, 0.01, 0.03, 0.02]) == pytest.approx([0.6, 0.04, 0.06, 0.06])
    assert holm([]) == []
    assert holm([0.5, 0.9]) == [1.0, 1.0]


def share(rng, gap, seeds, verdicts, *, printed=False, count=1500):
    """How often one of some words is said of means that lie so many deviations of single runs apart."""
    ours, others = rng.normal(gap, 1, (count, seeds)), rng.normal(0, 1, (count, 4 if printed else seeds))
    if printed:
        pairs = [
            Estimate.apart([Estimate.of(mine)], [Estimate.printed(theirs.mean(), theirs.std(ddof=1), 4)])
            for mine, theirs in zip(ours, others)
        ]
    else:
        pairs = [Estimate.of(difference) for difference in ours - others]
    return sum(told([pair])[0] in verdicts for pair in pairs) / count


@pytest.mark.parametrize("printed", [False, True])
@pytest.mark.parametrize("seeds", SEEDS)
def test_of_equal_means_a_difference_is_told_in_a_twentieth_of_cases(rng, seeds, printed):
    wrong = share(rng, 0, seeds, ("more", "less"), printed=printed)
    assert wrong == 0 if seeds < ENOUGH else wrong == pytest.approx(LEVEL, abs=0.02)


@pytest.mark.parametrize("gap", [1, 2])
def test_more_seeds_tell_a_difference_of_one_or_two_deviations_more_often(rng, gap):
    found = [share(rng, gap, seeds, ["more"]) for seeds in SEEDS]
    # Student's test of differences with a deviation of the root of 2, by the noncentral t distribution.
    for seeds, power in zip(SEEDS, found):
        center, critical = gap * (seeds / 2) ** 0.5, stats.t.ppf(1 - LEVEL / 2, seeds - 1)
        expected = stats.nct.sf(critical, seeds - 1, center) if seeds >= ENOUGH else 0
        assert power == pytest.approx(expected, abs=0.04)
    assert found == sorted(found)
    assert found[-1] > (0.4 if gap == 1 else 0.9)
    assert max(share(rng, gap, seeds, ["less"]) for seeds in SEEDS) < 0.01


def test_of_many_equal_means_one_is_told_apart_in_a_twentieth_of_studies(rng):
    studies = rng.normal(0, 1, (400, 8, 5))
    wrong = sum(set(told([Estimate.of(values) for values in study])) != {"not told apart"} for study in studies)
    assert wrong / len(studies) == pytest.approx(LEVEL, abs=0.03)
