"""Projections are those of the definitions, computed the long way, and shorter than what they project."""

from itertools import combinations, pairwise

import pytest
import torch
from definition import Definition
from helpers import (
    ALL_PERTURBATIONS,
    AUXILIARIES,
    DETERMINISTIC,
    GRANULARITIES,
    TARGETS,
    assert_all_close,
    body_gradients,
    build,
    estimator_of,
    every_pair,
    tapped_blocks,
)

BY_DEFINITION = [case for case in ALL_PERTURBATIONS if case[0] != "weight_per_sample"]


# Definitions


@pytest.mark.parametrize("aux", AUXILIARIES)
@pytest.mark.parametrize("target", TARGETS)
def test_targets_by_definition(target, aux):
    model, exact, batch = build(target=target, guess="exact", aux=aux)
    definition = Definition(model, *batch)
    exact.estimate(model, *batch)
    assert_all_close(body_gradients(model), [definition.weight(target, j) for j in range(7)])


def test_the_intermediate_target_of_the_last_but_one_block_is_the_networks_loss():
    model, intermediate, batch = build(target="intermediate", guess="exact")
    intermediate.estimate(model, *batch)
    expected = body_gradients(model)
    estimator_of(target="global", guess="exact").estimate(model, *batch)
    assert_all_close(body_gradients(model)[-1:], expected[-1:])
    with pytest.raises(AssertionError, match="off by"):
        assert_all_close(body_gradients(model), expected)


@pytest.mark.parametrize(("perturb", "granularity"), BY_DEFINITION)
@pytest.mark.parametrize("target", TARGETS)
def test_projections_by_definition(target, perturb, granularity):
    blocks, batch = tapped_blocks()
    estimator = estimator_of({"perturb.granularity": granularity}, target=target, perturb=perturb)
    estimator.estimate(blocks, *batch)
    assert_all_close(body_gradients(blocks), Definition(blocks, *batch).estimates(target, perturb, granularity))


@pytest.mark.parametrize(
    ("name", "perturb", "granularity"),
    [
        ("resnet18_16", "activity", "sample"),
        ("resnet18_8", "activity", "channel"),
        ("resnet18_8", "weight", "filter"),
        ("resnet18_16", "weight", "tensor"),
        ("resnet18_8", "weight", "block"),
        ("resnet18_8", "weight", "network"),
    ],
)
def test_projections_by_definition_in_the_papers_networks(name, perturb, granularity):
    model, estimator, batch = build({"perturb.granularity": granularity}, model=name, perturb=perturb)
    estimator.estimate(model, *batch)
    assert_all_close(body_gradients(model), Definition(model, *batch).estimates("global", perturb, granularity))


def test_granularities_differ():
    estimates = []
    for granularity in GRANULARITIES["weight"]:
        blocks, batch = tapped_blocks()
        estimator_of({"perturb.granularity": granularity}).estimate(blocks, *batch)
        estimates.append(torch.cat([p.flatten() for ps in body_gradients(blocks) for p in ps]))
    for one, other in combinations(estimates, 2):
        assert not torch.allclose(one, other, rtol=1e-3)


@pytest.mark.parametrize("perturb", ["activity", "weight"])
def test_finer_granularities_come_closer_to_the_target(perturb):
    """Projections on larger and larger subspaces; both sides measured where the projection takes place."""
    distances = []
    for granularity in GRANULARITIES[perturb]:
        blocks, batch = tapped_blocks()
        targets = [Definition(blocks, *batch).weight("global", j) for j in range(3)]
        estimator_of({"perturb.granularity": granularity}, perturb=perturb).estimate(blocks, *batch)
        pairs = [(ts, es) for ts, es in zip(targets, body_gradients(blocks))]
        # The gradient of a tap, the last of a body, is the estimate in the space of its output.
        pairs = pairs if perturb == "weight" else [(ts[-1:], es[-1:]) for ts, es in pairs]
        distances.append(sum(((t - e) ** 2).sum() for ts, es in pairs for t, e in zip(ts, es)).sqrt())
    for coarse, fine in pairwise(distances):
        assert fine < 0.999 * coarse


# Length


@every_pair(target=TARGETS, guess=DETERMINISTIC, way=BY_DEFINITION)
def test_an_estimate_is_never_longer_than_its_target(target, guess, way):
    perturb, granularity = way
    if guess == "ntk":  # draws other auxiliaries than the definition has, which only the global target ignores
        target = "global"
    blocks, batch = tapped_blocks()
    definition = Definition(blocks, *batch)
    estimator_of({"perturb.granularity": granularity}, target=target, guess=guess, perturb=perturb).estimate(
        blocks, *batch
    )
    estimates = body_gradients(blocks)
    if perturb == "weight":
        pairs = list(zip(estimates, [definition.weight(target, j) for j in range(3)]))
        lengths = [[(e.norm(), t.norm()) for e, t in zip(*pair)] for pair in pairs]
        if granularity in ("tensor", "filter"):
            units = [length for part in lengths for length in part]
        else:
            parts = lengths if granularity == "block" else [[length for part in lengths for length in part]]
            units = [(torch.stack(e).norm(), torch.stack(t).norm()) for part in parts for e, t in [zip(*part)]]
    else:  # the taps at the blocks' ends hold the estimates in the space of the activities
        taps = [(part[-1].flatten(1), definition.activity(target, j).flatten(1)) for j, part in enumerate(estimates)]
        units = [(e.norm(), t.norm()) for pair in taps for e, t in zip(*pair)]
    assert all(estimate <= goal * (1 + 1e-12) for estimate, goal in units)
    assert any(estimate > 0 for estimate, _ in units)
    if target != "local":
        assert any(estimate < 0.9 * goal for estimate, goal in units)
