"""Published guesses in the space of h_j: their formulas in plain autograd, in every perturbation and engine."""

import pytest
import torch
import torch.nn.functional as F
from helpers import (
    ALL_PERTURBATIONS,
    Definition,
    assert_all_close,
    body_gradients,
    estimator_of,
    tapped_blocks,
    uncoupled_blocks,
)

CLASSES = 3
CASES = [
    *(("reverse", guess) for guess in ("dfa", "drtp", "next_block", "mixing")),
    *(("forward", guess) for guess in ("dfa", "drtp", "mixing")),
]


def error(blocks, images, labels):
    """The softmax less the label, of the mean over the batch."""
    hidden = images
    for block in blocks:
        hidden = block.body(hidden)
    probabilities = blocks[-1].aux(hidden).softmax(1)
    return (probabilities - F.one_hot(labels, CLASSES)).detach() / len(labels)


def directions(guess, blocks, definition, batch):
    """What gives the direction of a block; what is drawn for blocks with parameters, in their order, is drawn here."""
    drawn = {}
    for j, (h, after) in enumerate(zip(definition.outputs, definition.outputs[1:])):
        if guess in ("mixing", "next_block") and definition.parameters[j]:
            drawn[j] = torch.randn_like(after if guess == "next_block" else h.new_empty(len(h)))

    def direction(j):
        h = definition.outputs[j]
        if not definition.parameters[j]:
            return torch.zeros_like(h)
        if guess == "next_block":
            return torch.autograd.grad(definition.outputs[j + 1], h, drawn[j], retain_graph=True)[0]
        if guess == "mixing":
            return sum(factor * row for factor, row in zip(drawn[j], h.detach())) * (h != 0)
        fed_back = error(blocks, *batch) if guess == "dfa" else F.one_hot(batch[1], CLASSES).double()
        return torch.einsum("nc,c...->n...", fed_back, blocks[j].feedback)

    return direction


@pytest.mark.parametrize(("engine", "guess"), CASES)
@pytest.mark.parametrize("target", ["global", "intermediate"])
@pytest.mark.parametrize(("perturb", "granularity"), ALL_PERTURBATIONS)
def test_estimates_are_those_of_the_formula(perturb, granularity, target, engine, guess):
    blocks, batch = uncoupled_blocks()
    settings = {"perturb.granularity": granularity}
    estimator = estimator_of(settings, target=target, guess=guess, perturb=perturb, engine=engine)
    estimator.estimate(blocks, *batch)  # draws what lasts
    torch.manual_seed(1)
    estimator.estimate(blocks, *batch)
    definition = Definition(blocks, *batch)
    torch.manual_seed(1)
    guessed = directions(guess, blocks, definition, batch)
    assert_all_close(body_gradients(blocks), definition.estimates(target, perturb, granularity, guessed), 1e-7)


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
