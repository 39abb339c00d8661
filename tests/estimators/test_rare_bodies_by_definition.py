"""Blocks that hold what users' blocks hold, against the definitions in plain autograd."""

from copy import deepcopy

import pytest
from definition import Definition
from helpers import assert_all_close, assert_close, body_gradients, every_pair
from token_bodies import (
    BODIES,
    ENGINES,
    GUESSES,
    WAYS,
    Wave,
    checkpointed_spectral_norm,
    network,
    old_spectral_norm,
    refused,
)

from fglight.estimators import (
    GradientEstimator,
)


def estimate_by_definition(blocks, inputs, labels, target, guess, way):
    """The estimates of all blocks but the last."""
    perturb = way if way.startswith("activity") or way == "weight_per_sample" else "weight"
    drawn = {} if guess == "local" else {"draw": lambda like: [Wave().sample(like)], "coefficient": "inner"}
    return Definition(blocks, inputs, labels).estimates(target, perturb, way, **drawn)


def buffers_after_a_pass(blocks, inputs, labels):
    blocks = deepcopy(blocks)
    for block in blocks:
        inputs = block.body(inputs)
    return [buffer for block in blocks for buffer in block.body.buffers()]


@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning", "ignore:.*nested tensors.*:UserWarning")
@every_pair(make=BODIES, engine=ENGINES, guess=GUESSES, way=WAYS)
def test_estimates_and_buffers_are_those_of_the_definition(make, engine, guess, way):
    if way == "activity_span":
        guess = "local"
    # A checkpoint runs a body again in every backward pass, where power iterations would go on.
    plain = {checkpointed_spectral_norm: old_spectral_norm}.get(make, make)
    kind, target, aims = GUESSES[guess]
    expected = estimate_by_definition(*network(plain), target, guess, way)
    blocks, inputs, labels = network(make)
    moved = buffers_after_a_pass(blocks, inputs, labels)
    estimator = GradientEstimator(aims(), kind(), WAYS[way](), engine=engine())
    if said := refused(make, engine, way):
        with pytest.raises(ValueError, match=said):
            estimator.estimate(blocks, inputs, labels)
        return
    estimator.estimate(blocks, inputs, labels)
    assert_all_close(body_gradients(blocks), expected, 1e-8)
    for buffer, after in zip((b for block in blocks for b in block.body.buffers()), moved):
        assert_close(buffer.double(), after.double())
