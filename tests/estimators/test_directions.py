"""Several directions, combined by their mean or by a projection on their span."""

from itertools import cycle

import pytest
import torch
from definition import Definition
from helpers import assert_all_close, assert_close, body_gradients, estimator_of, tapped_blocks, uncoupled_blocks
from torch import nn

from fglight.autodiff import linalg
from fglight.estimators.combine import combine as combined
from fglight.models import Block

UNITS = {"network": "weight", "block": "weight", "tensor": "weight", "filter": "weight", "sample": "activity"}
"""Granularities, and the perturbation that has them."""


def settings(granularity, directions, combine):
    return {"perturb.granularity": granularity, "guess.directions": directions, "guess.combine": combine}


def record_samples(guess):
    """Every direction that is drawn from now on."""
    drawn = []
    sample = guess.sample
    guess.sample = lambda like: drawn.append(sample(like)) or drawn[-1]
    return drawn


@pytest.mark.parametrize("granularity", UNITS)
def test_the_mean_is_that_of_the_estimates_by_single_directions(granularity):
    blocks, batch = tapped_blocks()
    estimator = estimator_of(settings(granularity, 3, "mean"), guess="gaussian", perturb=UNITS[granularity])
    drawn = record_samples(estimator.guess)
    estimator.estimate(blocks, *batch)
    several = body_gradients(blocks)
    singles = []
    for m in range(3):
        one = estimator_of({"perturb.granularity": granularity}, guess="gaussian", perturb=UNITS[granularity])
        mine = iter(drawn[m::3])  # a tensor's directions are drawn one after the other
        one.guess.sample = lambda like, mine=mine: next(mine)
        one.estimate(blocks, *batch)
        singles.append(body_gradients(blocks))
    means = [[torch.stack(tensors).mean(0) for tensors in zip(*parts)] for parts in zip(*singles)]
    assert_all_close(several, means)


@pytest.mark.parametrize("guess", ["gaussian", "rademacher", "ntk"])
def test_the_span_is_projected_on_orthogonally(guess):
    """Block by block against least squares, in the space of all the block's parameters."""
    blocks, batch = tapped_blocks()
    estimator_of(guess="exact").estimate(blocks, *batch)
    targets = [torch.cat([t.flatten() for t in part]) for part in body_gradients(blocks)]
    estimator = estimator_of(settings("block", 4, "span"), guess=guess)
    seen = []
    in_space = estimator.guess.in_space

    def noted(here, *given, **how):
        seen.append((here.index, [*in_space(here, *given, **how)]))
        return seen[-1][1]

    estimator.guess.in_space = noted
    estimator.estimate(blocks, *batch)
    estimates = [torch.cat([e.flatten() for e in part]) for part in body_gradients(blocks)]
    assert [index for index, _ in seen] == [0, 1, 2]  # drawn from block 0 on
    for j, directions in seen:
        g = torch.cat([d.flatten(1) for d in directions], dim=1)  # (k, parameters)
        solution = torch.linalg.lstsq(g.T, targets[j].unsqueeze(1), driver="gelsd").solution
        assert_close(estimates[j], (g.T @ solution).squeeze(1))


def test_one_direction_is_projected_on_either_way():
    torch.manual_seed(0)
    products, gram = torch.randn(5, 1, dtype=torch.float64), 1 + torch.rand(5, 1, 1, dtype=torch.float64)
    guesses = [estimator_of(settings("tensor", 1, combine), guess="ntk").guess for combine in ("mean", "span")]
    assert_close(*(combined(guess.combine, guess.coefficient, products, gram) for guess in guesses))


def test_as_many_directions_as_dimensions_give_the_target():
    torch.manual_seed(0)
    blocks = [Block(nn.Linear(2, 2), nn.Linear(2, 2)).double() for _ in range(3)]
    batch = torch.randn(5, 2, dtype=torch.float64), torch.randint(2, (5,))
    estimator_of(guess="exact").estimate(blocks, *batch)
    exact = body_gradients(blocks)
    estimator_of(settings("block", 6, "span"), guess="gaussian").estimate(blocks, *batch)
    assert_all_close(body_gradients(blocks), exact)


@pytest.mark.parametrize("combine", ["mean", "span"])
@pytest.mark.parametrize("k", [1, 2, 4, 8])
def test_the_cosine_grows_as_theory_says(k, combine):
    """In d dimensions cos^2 is k/d on average for the span, and about k/(k + d + 1) for the mean of k estimates."""
    torch.manual_seed(0)
    d, trials = 60, 400
    guess = estimator_of({"guess.directions": k, "guess.combine": combine}, guess="gaussian").guess
    target = torch.randn(trials, d, dtype=torch.float64)
    directions = torch.randn(trials, k, d, dtype=torch.float64)
    products, gram = linalg.products(target, directions), linalg.gram(directions)
    estimate = linalg.combine(combined(guess.combine, guess.coefficient, products, gram), directions)
    squares = torch.cosine_similarity(estimate, target, dim=1) ** 2
    expected = k / d if combine == "span" or k == 1 else k / (k + d + 1)
    error = squares.std() / trials**0.5
    assert abs(squares.mean() - expected) < 4 * error + 0.1 * expected * (combine == "mean")
    assert error < 0.1 * expected, "the bound above would tell nothing"


def test_the_logged_cosine_is_that_of_the_estimate():
    blocks, batch = tapped_blocks()
    estimator_of(guess="exact").estimate(blocks, *batch)
    exact = body_gradients(blocks)
    step = estimator_of(settings("tensor", 3, "span"), guess="gaussian").estimate(blocks, *batch, cosine=True)
    for j, part in enumerate(body_gradients(blocks)):
        cosines = [torch.cosine_similarity(e.flatten(), t.flatten(), dim=0) for e, t in zip(part, exact[j])]
        assert_close(step.cosine[j], torch.stack(cosines).mean())


def in_rows(estimate, granularity, perturb):
    """What one coefficient stands for in each part of an estimate of a block: rows of numbers."""
    if perturb == "activity":  # the gradient of a tap is what arrives at a block's output
        dimensions = 2 if granularity == "channel" else 1
        return [estimate[-1].reshape(estimate[-1].shape[:dimensions].numel(), -1)]
    if granularity == "block":
        return [torch.cat([x.flatten() for x in estimate])[None]]
    return [x.reshape(len(x) if granularity == "filter" else 1, -1) for x in estimate]


WITH_ROWS = [
    ("weight", "block"),
    ("weight", "tensor"),
    ("weight", "filter"),
    ("activity", "sample"),
    ("activity", "channel"),
]


@pytest.mark.parametrize(("perturb", "granularity"), WITH_ROWS)
def test_the_best_aligned_is_kept_alone(perturb, granularity):
    """Unit by unit, the estimate is that of one of the directions, and of the one with the largest cosine."""
    blocks, batch = tapped_blocks()
    estimator_of(guess="exact").estimate(blocks, *batch)
    exact = body_gradients(blocks)
    estimator = estimator_of(settings(granularity, 3, "max"), guess="gaussian", perturb=perturb)
    drawn = record_samples(estimator.guess)
    estimator.estimate(blocks, *batch)
    for j, part in enumerate(body_gradients(blocks)):
        own = drawn[: 3 * (1 if perturb == "activity" else len(part))]
        drawn = drawn[len(own) :]
        several = [[None, x] if perturb == "activity" else own[m::3] for m, x in enumerate(own[:3])]
        rows = [in_rows(each, granularity, perturb) for each in (exact[j], part, *several)]
        for t, found, *k in zip(*rows):
            g = torch.stack(k)  # (3, units, features)
            products = (g * t).sum(2)
            best = (products.abs() / g.norm(dim=2)).argmax(0)
            units = torch.arange(len(t))
            if t.shape[1] > 1:  # in one dimension all are aligned alike
                assert_close(found, products[best, units, None] * g[best, units])


@pytest.mark.parametrize("guess", ["gaussian", "rademacher", "low_rank"])
@pytest.mark.parametrize("engine", ["reverse", "forward"])
@pytest.mark.parametrize(("perturb", "granularity"), [*WITH_ROWS, ("weight_per_sample", "tensor")])
def test_a_span_is_stretched_by_the_root_of_dimensions_over_directions(perturb, granularity, engine, guess):
    results = []
    for rescale in (False, True):
        blocks, batch = tapped_blocks()
        torch.manual_seed(1)
        choices = settings(granularity, 3, "span") | {"guess.rescale": rescale}
        estimator_of(choices, guess=guess, perturb=perturb, engine=engine).estimate(blocks, *batch)
        results.append(body_gradients(blocks))
    for plain, stretched in zip(*results):
        for a, b in zip(in_rows(plain, granularity, perturb), in_rows(stretched, granularity, perturb)):
            assert_close(b, a * max(1, a.shape[1] / 3) ** 0.5)


@pytest.mark.parametrize("k", [1, 4, 16, 60, 80])
def test_a_stretched_span_is_as_long_as_the_target_in_the_mean_square(k):
    torch.manual_seed(0)
    d, trials = 60, 400
    guess = estimator_of(settings("tensor", k, "span") | {"guess.rescale": True}, guess="gaussian").guess
    target = torch.randn(trials, d, dtype=torch.float64)
    directions = torch.randn(trials, k, d, dtype=torch.float64)
    products, gram = linalg.products(target, directions), linalg.gram(directions)
    coefficients = combined("span", guess.coefficient, products, gram)
    estimate = linalg.combine(coefficients * guess.length_correction(k, d), directions)
    ratio = estimate.square().sum(1) / target.square().sum(1)
    assert (ratio.mean() - 1).abs() < 4 * ratio.std() / trials**0.5 + 1e-9


@pytest.mark.parametrize("combine", ["mean", "span", "max"])
def test_several_directions_of_every_sample_s_weights(combine):
    """Both engines, against the estimate from every sample's targets and the directions that were drawn."""
    found = []
    for engine in ("reverse", "forward"):
        blocks, batch = uncoupled_blocks()
        estimator = estimator_of(
            settings("tensor", 2, combine), guess="gaussian", perturb="weight_per_sample", engine=engine
        )
        numbers = cycle(range(2))
        estimator.guess.sample = lambda like, numbers=numbers: wave(like, next(numbers))
        estimator.estimate(blocks, *batch)
        found.append(body_gradients(blocks))
    expected = Definition(blocks, *batch).estimates(
        perturb="weight_per_sample",
        draw=lambda like: [wave(like, m) for m in range(2)],
        coefficient="inner",
        combine=combine,
    )
    for each in found:
        assert_all_close(each, expected, 1e-8)


def wave(like, number):
    return torch.cos(torch.arange(like.numel(), dtype=like.dtype) ** 2 + number).view(like.shape)
