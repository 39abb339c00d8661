"""The guided guess, against plain autograd."""

import pytest
import torch
from definition import Definition
from helpers import (
    ALL_PERTURBATIONS,
    assert_all_close,
    assert_close,
    blocks_with_several,
    body_gradients,
    both_engines,
    estimator_of,
    every_way,
    uncoupled_blocks,
)


def wave(like):
    return torch.cos(torch.arange(like.numel(), dtype=like.dtype) ** 2).view(like.shape)


def guided(alpha):
    """A direction around each sample's guide, where a parameter's gradient counts as one sample's."""

    def around(guides):
        rows = guides.flatten(1)
        noise = wave(rows) / rows.shape[1] ** 0.5
        mixed = alpha**0.5 * noise + (1 - alpha) ** 0.5 * rows / rows.norm(dim=1, keepdim=True).clamp_min(1e-300)
        return (mixed / mixed.norm(dim=1, keepdim=True)).view_as(guides)

    return around


@both_engines
@every_way
def test_guided_directions_by_definition(perturb, granularity, engine, monkeypatch):
    monkeypatch.setattr(torch, "randn_like", wave)
    blocks, batch = uncoupled_blocks()
    settings = {"perturb.granularity": granularity, "guess.alpha": 0.3}
    estimator_of(settings, guess="guided", perturb=perturb, engine=engine).estimate(blocks, *batch)
    definition = Definition(blocks, *batch)
    expected = definition.estimates("global", perturb, granularity, around=guided(0.3))
    assert_all_close(body_gradients(blocks), expected, 1e-7)


@pytest.mark.parametrize(
    ("perturb", "granularity"),
    [way for way in ALL_PERTURBATIONS if way[1] not in ("block", "network")],  # there, tensors' lengths matter
)
def test_without_noise_it_is_the_local_guess(perturb, granularity):
    results = []
    for guess, settings in (("local", {}), ("guided", {"guess.alpha": 0.0})):
        blocks, batch = uncoupled_blocks()
        settings |= {"perturb.granularity": granularity}
        estimator_of(settings, guess=guess, perturb=perturb).estimate(blocks, *batch)
        results.append(body_gradients(blocks))
    assert_all_close(results[1], results[0], 1e-6)


@pytest.mark.parametrize("alpha", [0.25, 0.5, 1.0])
def test_estimates_have_the_mean_of_guided_evolution_strategies(alpha):
    """Its covariance times the target; for directions of unit length, to O(1/n)."""
    torch.manual_seed(0)
    n, trials = 400, 4000
    estimator = estimator_of({"guess.alpha": alpha}, guess="guided")
    guide, target = torch.randn(n, dtype=torch.float64), torch.randn(n, dtype=torch.float64)
    directions = estimator.guess.in_space(
        None, [guide.expand(1, trials, n)], [guide.expand(trials, n)], by_sample=True
    )[0][0]
    assert_close(directions.norm(dim=1), torch.ones(trials, dtype=torch.float64))
    unit = guide / guide.norm()
    across = target - (target @ unit) * unit
    components = directions @ (target + 30 * unit), directions
    for axis, expected in ((unit, alpha / n + 1 - alpha), (across / across.norm(), alpha / n)):
        found = components[0] * (directions @ axis)
        mean = expected * ((target + 30 * unit) @ axis)
        assert (found.mean() - mean).abs() < 4 * found.std() / trials**0.5 + 0.02 * mean.abs()


def test_guided_directions_around_several_auxiliaries():
    blocks, batch = blocks_with_several()
    estimator = estimator_of({"guess.combine": "span"}, guess="guided")
    cosine = estimator.estimate(blocks, *batch, cosine=True).cosine
    assert estimator.guess.count(blocks[0]) == 3
    assert (cosine[[0, 1, 3]] > 0).all()
