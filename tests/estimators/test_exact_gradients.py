"""The exact guess is backpropagation, of the whole network or of every block alone."""

from copy import deepcopy

import pytest
import torch
import torch.nn.functional as F
from helpers import (
    AUXILIARIES,
    MODELS,
    PERTURBATIONS,
    assert_close,
    assert_same_gradients,
    build,
    estimator_of,
    gradients,
    tapped_blocks,
)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", MODELS)
def test_global_exact_is_backpropagation(name, training):
    model, estimator, (images, labels) = build(model=name, guess="exact")
    model.train(training)
    plain = deepcopy(model)
    logits = plain(images)
    loss = F.cross_entropy(logits, labels)
    loss.backward()
    step = estimator.estimate(model, images, labels)
    assert_same_gradients(gradients(model), gradients(plain))
    assert_close(step.loss, loss.detach())
    assert_close(step.logits, logits.detach())


@pytest.mark.parametrize("aux", AUXILIARIES)
@pytest.mark.parametrize("name", MODELS)
def test_local_exact_trains_every_block_on_its_own_loss(name, aux):
    model, estimator, (images, labels) = build(model=name, aux=aux, target="local", guess="exact")
    alone = deepcopy(model)
    losses = []
    hidden = images
    for block in alone.blocks:
        hidden = block.body(hidden.detach())
        losses.append(block.loss(hidden, labels)[0])
        losses[-1].backward()
    step = estimator.estimate(model, images, labels)
    assert_same_gradients(gradients(model), gradients(alone))
    assert_close(torch.stack([local.loss for local in step.local] + [step.loss]), torch.stack(losses).detach())


@pytest.mark.parametrize("perturb", PERTURBATIONS)
def test_a_projection_on_the_target_itself_is_the_target(perturb):
    blocks, batch = tapped_blocks()
    estimator_of(target="local", guess="local", perturb=perturb).estimate(blocks, *batch)
    projected = gradients(blocks)
    estimator_of(target="local", guess="exact").estimate(blocks, *batch)
    assert_same_gradients(projected, gradients(blocks))
