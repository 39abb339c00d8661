"""Directional derivatives of a step, against what the definition of each unit says."""

import pytest
import torch
from torch import nn

from fglight.diagnostics.counting import Derivatives, count_derivatives
from fglight.estimators import (
    ActivityPerturbation,
    ActivitySpanPerturbation,
    ExactGuess,
    FrozenGuess,
    GaussianGuess,
    GlobalTarget,
    GradientEstimator,
    LocalGuess,
    WeightPerSamplePerturbation,
    WeightPerturbation,
)
from fglight.models import Block, SeveralAuxiliaries


def blocks() -> list[Block]:
    """Maps of 4x4, then of 1x1: convolutions with 3 and 5 filters, each with a bias."""
    bodies = (nn.Conv2d(1, 3, 3, padding=1), nn.Conv2d(3, 5, 4), nn.Flatten())
    heads = (nn.Flatten(), nn.Flatten(), nn.Linear(5, 2))
    return [Block(body, nn.Sequential(head, nn.LazyLinear(2))) for body, head in zip(bodies, heads)]


@pytest.mark.parametrize(
    ("perturbation", "taken", "exact"),
    [
        (WeightPerturbation("network"), 1, 0),
        (WeightPerturbation("block"), 2, 0),
        (WeightPerturbation("tensor"), 4, 0),
        (WeightPerturbation("filter"), 16, 8),  # 3 + 5 filters, and as many biases, each a single number
        (WeightPerSamplePerturbation(), 4, 0),
        (ActivityPerturbation("sample"), 2, 0),
        (ActivityPerturbation("channel"), 8, 5),  # the second block's maps have one position
        (ActivitySpanPerturbation(), 2 * 6, 0),  # all samples along each of the batch's six guesses
    ],
    ids=lambda value: getattr(value, "granularity", None),
)
def test_units_are_counted_and_those_of_a_single_number_are_exact(perturbation, taken, exact):
    estimator = GradientEstimator(GlobalTarget(), LocalGuess(), perturbation)
    assert count_derivatives(estimator, blocks(), torch.randn(2, 1, 4, 4), 6) == Derivatives(taken, exact)


def test_several_directions_are_as_many_derivatives_and_one_number_is_exact_once():
    for k in (1, 3):
        estimator = GradientEstimator(GlobalTarget(), GaussianGuess(directions=k), WeightPerturbation("filter"))
        assert count_derivatives(estimator, blocks(), torch.randn(2, 1, 4, 4), 6) == Derivatives(16 * k, 8)


@pytest.mark.parametrize(
    ("perturbation", "taken"),
    [(WeightPerturbation("network"), 3), (WeightPerturbation("block"), 6), (ActivityPerturbation(), 6)],
    ids=lambda value: getattr(value, "granularity", None),
)
def test_several_auxiliaries_are_as_many_directions(perturbation, taken):
    network = blocks()
    for block in network[:-1]:
        block.aux = SeveralAuxiliaries(nn.Sequential(nn.Flatten(), nn.LazyLinear(2)) for _ in range(3))
    estimator = GradientEstimator(GlobalTarget(), LocalGuess(combine="span"), perturbation)
    assert count_derivatives(estimator, network, torch.randn(2, 1, 4, 4), 6).taken == taken


def test_what_projects_nothing_takes_none():
    for guess, perturbation in (
        (ExactGuess(), WeightPerturbation()),
        (FrozenGuess(), WeightPerturbation()),
        (LocalGuess(), WeightPerturbation(coefficient="one")),
    ):
        estimator = GradientEstimator(GlobalTarget(), guess, perturbation)
        assert count_derivatives(estimator, blocks(), torch.randn(2, 1, 4, 4), 6) == Derivatives(0, 0)


def test_a_network_of_one_block_takes_none():
    for granularity in WeightPerturbation.granularities:
        estimator = GradientEstimator(GlobalTarget(), GaussianGuess(), WeightPerturbation(granularity))
        one = [Block(nn.Flatten(), nn.Linear(16, 2))]
        assert count_derivatives(estimator, one, torch.randn(2, 1, 4, 4), 6) == Derivatives(0, 0)
