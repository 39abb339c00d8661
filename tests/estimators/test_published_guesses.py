"""Published guesses in the space of h_j: their formulas in plain autograd, in every perturbation and engine."""

import pytest
import torch
from definition import Definition
from helpers import (
    ALL_PERTURBATIONS,
    assert_all_close,
    body_gradients,
    estimator_of,
    every_pair,
    tapped_blocks,
    uncoupled_blocks,
)

CASES = [
    *(("reverse", guess) for guess in ("dfa", "drtp", "next_block", "mixing")),
    *(("forward", guess) for guess in ("dfa", "drtp", "mixing")),
]


def directions(guess, definition):
    """What gives the directions of a block; what is drawn for blocks with parameters, in their order, is drawn here."""
    if guess in ("dfa", "drtp"):
        return getattr(definition, guess)
    drawn = {}
    for j, (h, after) in enumerate(zip(definition.outputs, definition.outputs[1:])):
        if definition.parameters[j]:
            drawn[j] = torch.randn_like(after if guess == "next_block" else h.new_empty(len(h)))
    return lambda j: getattr(definition, guess)(j, drawn[j])


@every_pair(way=ALL_PERTURBATIONS, target=["global", "intermediate"], case=CASES)
def test_estimates_are_those_of_the_formula(way, target, case):
    (perturb, granularity), (engine, guess) = way, case
    blocks, batch = uncoupled_blocks()
    settings = {"perturb.granularity": granularity}
    estimator = estimator_of(settings, target=target, guess=guess, perturb=perturb, engine=engine)
    estimator.estimate(blocks, *batch)  # draws what lasts
    torch.manual_seed(1)
    estimator.estimate(blocks, *batch)
    definition = Definition(blocks, *batch)
    torch.manual_seed(1)
    expected = definition.estimates(target, perturb, granularity, directions(guess, definition))
    assert_all_close(body_gradients(blocks), expected, 1e-7)


@pytest.mark.parametrize("guess", ["dfa", "drtp", "next_block", "mixing", "momentum"])
def test_auxiliary_networks_take_no_part(guess):
    blocks, batch = uncoupled_blocks()
    estimator = estimator_of(guess=guess)
    step = estimator.estimate(blocks, *batch)
    assert step.local == [None] * 4
    assert all(p.grad is None for block in blocks[:-1] for p in block.aux.parameters())
    trained = {id(p) for p in estimator.trained_parameters(blocks)}
    assert trained == {id(p) for block in blocks for p in block.parameters() if p.grad is not None}


@pytest.mark.parametrize("guess", ["dfa", "drtp", "next_block", "mixing", "momentum"])
def test_the_last_block_has_the_exact_gradient(guess):
    blocks, batch = uncoupled_blocks()
    estimator_of(guess="exact").estimate(blocks, *batch)
    exact = [p.grad for p in blocks[-1].parameters()]
    estimator_of(guess=guess).estimate(blocks, *batch)
    for p, gradient in zip(blocks[-1].parameters(), exact):
        torch.testing.assert_close(p.grad, gradient)


PINNED = {
    ("dfa", "activity"): 0.018430765469151775,
    ("drtp", "activity"): 0.023691866463791178,
    ("next_block", "activity"): 0.06960349661980596,
    ("mixing", "activity"): 0.022161205767194752,
    ("momentum", "weight"): 0.03280566610046463,
}
"""The norm of the second estimate for block 0 of ``tapped_blocks``."""


@pytest.mark.parametrize(("guess", "perturb"), PINNED)
def test_an_estimate_is_what_it_was(guess, perturb):
    blocks, batch = tapped_blocks()
    estimator = estimator_of(guess=guess, perturb=perturb)
    for _ in range(2):
        estimator.estimate(blocks, *batch)
    found = sum(float(p.grad.square().sum()) for p in blocks[0].body.parameters()) ** 0.5
    assert found == pytest.approx(PINNED[guess, perturb], rel=1e-6)
