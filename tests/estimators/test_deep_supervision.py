"""Backpropagation of all blocks' losses together."""

from copy import deepcopy

import pytest
import torch
from definition import Definition
from helpers import assert_all_close, assert_same_gradients, body_gradients, estimator_of, gradients, uncoupled_blocks

from fglight.errors import ConfigError


def test_it_is_the_gradient_of_the_sum_of_all_losses():
    blocks, (images, labels) = uncoupled_blocks()
    twins = deepcopy(blocks)
    step = estimator_of(guess="exact", target="deep_supervision").estimate(blocks, images, labels)
    hidden, losses = images, []
    for block in twins:
        hidden = block.body(hidden)
        losses.append(block.loss(hidden, labels)[0])
    sum(losses).backward()
    assert_same_gradients(gradients(blocks), gradients(twins))
    assert step.loss == losses[-1]
    assert [local.loss for local in step.local] == losses[:-1]


@pytest.mark.parametrize("perturb", ["activity", "weight", "weight_per_sample"])
def test_a_guess_is_projected_on_it(perturb):
    """The definition's losses of blocks, each the sum of those from it on."""
    blocks, batch = uncoupled_blocks()
    estimator_of(target="deep_supervision", perturb=perturb).estimate(blocks, *batch)
    definition = Definition(blocks, *batch)
    own = list(definition.losses)
    definition.loss = lambda target, j: own[j] if target == "local" else sum(own[j:])
    granularity = "sample" if perturb == "activity" else "tensor"
    assert_all_close(body_gradients(blocks), definition.estimates("deep", perturb, granularity), 1e-8)


@pytest.mark.parametrize("engine", ["forward", "finite"])
def test_other_engines_refuse_it(engine):
    with pytest.raises(
        ConfigError, match=rf"^engine={engine} must have a target of one loss, got DeepSupervision: use"
    ):
        estimator_of(target="deep_supervision", engine=engine)


def test_its_auxiliary_networks_train_on_their_own_losses():
    blocks, batch = uncoupled_blocks()
    alone = deepcopy(blocks)
    estimator_of(guess="exact", target="deep_supervision").estimate(blocks, *batch)
    estimator_of(guess="exact", target="local").estimate(alone, *batch)
    for one, other in zip(blocks[:-1], alone[:-1]):
        for p, q in zip(one.aux.parameters(), other.aux.parameters()):
            torch.testing.assert_close(p.grad, q.grad, rtol=0, atol=1e-12)
