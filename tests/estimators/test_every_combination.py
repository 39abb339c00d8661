"""Everything with everything."""

from copy import deepcopy

import pytest
import torch
import torch.nn.functional as F
from helpers import (
    ALL_PERTURBATIONS,
    AUXILIARIES,
    GUESSES,
    MODELS,
    TARGETS,
    assert_close,
    build,
    every_pair,
    trains_auxiliaries,
)

from fglight.errors import ConfigError


@every_pair(name=MODELS, target=TARGETS, aux=AUXILIARIES, guess=GUESSES, way=ALL_PERTURBATIONS)
def test_every_combination(name, target, aux, guess, way):
    """Finite gradients of the right shape where they belong, and the exact ones in the last block."""
    perturb, granularity = way
    settings = {"perturb.granularity": granularity, "model.width": 1 / 64}
    model, estimator, (images, labels) = build(
        settings, model=name, target=target, aux=aux, guess=guess, perturb=perturb, batch=4
    )
    last = list(model.blocks[-1].parameters())
    auxiliaries = {id(p) for block in model.blocks[:-1] for p in block.aux.parameters()}
    copy = deepcopy(model)
    exact = torch.autograd.grad(F.cross_entropy(copy(images), labels), list(copy.blocks[-1].parameters()))
    estimator.estimate(model, images, labels)
    for part, parameter in model.named_parameters():
        expected = id(parameter) not in auxiliaries or trains_auxiliaries(target, guess)
        assert (parameter.grad is not None) == expected, part
        assert not expected or parameter.grad.isfinite().all(), part
    for parameter, gradient in zip(last, exact, strict=True):
        assert_close(parameter.grad, gradient)


@pytest.mark.parametrize("perturb", ["activity", "activity_span", "weight_per_sample"])
@pytest.mark.parametrize("granularity", ["block", "network"])
def test_a_granularity_that_means_nothing_is_refused_by_name(perturb, granularity):
    with pytest.raises(ConfigError, match=rf"perturb\.granularity must be one of .*, got {granularity}"):
        build({"perturb.granularity": granularity}, perturb=perturb)
