"""Networks of which a part is not trained, takes no part or is all there is."""

import pytest
import torch
import torch.nn.functional as F
from definition import Definition
from helpers import (
    ALL_PERTURBATIONS,
    TARGETS,
    assert_all_close,
    assert_same_gradients,
    body_gradients,
    estimator_of,
    every_pair,
    every_way,
    gradients,
    granular,
    tapped_blocks,
)
from torch import nn

from fglight.models import Block


def with_parameterless_block(blocks):
    """The same network with a block without parameters behind block 1."""
    aux = nn.Sequential(nn.Flatten(), nn.Linear(54, 4)).double()
    return [*blocks[:2], Block(nn.Tanh(), aux), *blocks[2:]]


@every_pair(way=ALL_PERTURBATIONS, guess=["exact", "local", "gaussian"], cosine=[False, True])
def test_a_body_without_parameters(way, guess, cosine):
    perturb, granularity = way
    blocks, batch = tapped_blocks()
    blocks = with_parameterless_block(blocks)
    estimator_of(granular(granularity), guess=guess, perturb=perturb).estimate(blocks, *batch, cosine=cosine)
    assert all(p.grad is not None and p.grad.isfinite().all() for block in blocks for p in block.body.parameters())
    if guess == "local" and perturb != "weight_per_sample":
        assert_all_close(body_gradients(blocks), Definition(blocks, *batch).estimates("global", perturb, granularity))


@pytest.mark.parametrize("guess", ["exact", "local", "gaussian"])
@every_way
def test_frozen_parameters_get_nothing(perturb, granularity, guess):
    blocks, batch = tapped_blocks()
    frozen = [blocks[0].body[0].weight, blocks[2].body[2].bias, blocks[1].aux[1].weight, blocks[3].aux[1].bias]
    for parameter in [*frozen, *blocks[1].body.parameters()]:
        parameter.requires_grad_(False)
    estimator_of(granular(granularity), guess=guess, perturb=perturb).estimate(blocks, *batch)
    uses = guess == "local"
    for j, block in enumerate(blocks):
        for parameter in block.body.parameters():
            assert (parameter.grad is not None) == parameter.requires_grad
        for parameter in block.aux.parameters():
            assert (parameter.grad is not None) == (parameter.requires_grad and (uses or j == 3))
    if guess == "local" and perturb != "weight_per_sample":
        trained = [[p.grad for p in block.body.parameters() if p.requires_grad] for block in blocks[:-1]]
        assert_all_close(trained, Definition(blocks, *batch).estimates("global", perturb, granularity))


@pytest.mark.parametrize("engine", ["reverse", "forward"])
@every_way
def test_a_single_block_is_trained_exactly(perturb, granularity, engine):
    """There is nothing to project; whatever target and guess are, none is asked for."""
    blocks, (_, labels) = tapped_blocks()
    block = blocks[-1]
    x = torch.randn(5, 8, dtype=torch.float64)
    step = estimator_of(granular(granularity), perturb=perturb, engine=engine).estimate([block], x, labels, cosine=True)
    assert step.local == []
    estimated = gradients([block])
    block.zero_grad()
    F.cross_entropy(block.aux(block.body(x)), labels).backward()
    assert_same_gradients(estimated, gradients([block]))


@every_pair(way=ALL_PERTURBATIONS, guess=["exact", "local"], target=TARGETS)
def test_a_layer_that_takes_no_part_gets_zero(way, guess, target):
    perturb, granularity = way

    class WithSpare(nn.Module):
        def __init__(self, body):
            super().__init__()
            self.body, self.spare = body, nn.Linear(2, 2).double()

        def forward(self, x):
            return self.body(x)

    blocks, batch = tapped_blocks()
    estimator = estimator_of(granular(granularity), guess=guess, target=target, perturb=perturb)
    estimator.estimate(blocks, *batch)
    expected = body_gradients(blocks)
    blocks[1].body = WithSpare(blocks[1].body)
    estimator.estimate(blocks, *batch)
    assert [p.grad.abs().max() for p in blocks[1].body.spare.parameters()] == [0, 0]
    blocks[1].body = blocks[1].body.body
    assert_all_close(body_gradients(blocks), expected)


@pytest.mark.parametrize("guess", ["local", "gaussian"])
@every_way
def test_the_caller_may_be_in_no_grad(perturb, granularity, guess):
    results = []
    for context in (torch.enable_grad(), torch.no_grad()):
        blocks, batch = tapped_blocks()
        estimator = estimator_of(granular(granularity), guess=guess, perturb=perturb)
        with context:
            step = estimator.estimate(blocks, *batch)
        assert not step.loss.requires_grad
        assert not step.logits.requires_grad
        results.append(gradients(blocks))
    assert_same_gradients(*results, tolerance=0)


def test_the_images_may_require_a_gradient_and_get_none():
    blocks, (images, labels) = tapped_blocks()
    images.requires_grad_()
    estimator_of().estimate(blocks, images, labels)
    assert images.grad is None
