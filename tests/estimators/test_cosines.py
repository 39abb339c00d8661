"""Cosines by their definition; asking for them changes nothing."""

import pytest
import torch
from definition import Definition
from helpers import (
    GUESSES,
    PERTURBATIONS,
    TARGETS,
    assert_close,
    assert_same_gradients,
    build,
    estimator_of,
    every_pair,
    gradients,
    tapped_blocks,
)


@pytest.mark.parametrize("perturb", PERTURBATIONS[:2] + PERTURBATIONS[3:])
@pytest.mark.parametrize("target", TARGETS)
def test_cosine_by_definition(target, perturb):
    blocks, batch = tapped_blocks()
    definition = Definition(blocks, *batch)
    step = estimator_of(target=target, perturb=perturb).estimate(blocks, *batch, cosine=True)
    assert_close(step.cosine, definition.cosines(target, perturb))
    if target == "local":
        assert_close(step.cosine, torch.ones(3, dtype=torch.float64))


@every_pair(target=TARGETS, guess=GUESSES[1:], perturb=PERTURBATIONS)
def test_asking_for_the_cosine_changes_no_gradient(target, guess, perturb):
    results = []
    for cosine in (False, True):
        blocks, batch = tapped_blocks()
        torch.manual_seed(1)
        step = estimator_of(target=target, guess=guess, perturb=perturb).estimate(blocks, *batch, cosine=cosine)
        results.append(gradients(blocks))
        assert (step.cosine is not None) == cosine
    assert step.cosine.shape == (3,)
    assert step.cosine.isfinite().all()
    assert (step.cosine.abs() <= 1 + 1e-12).all()
    assert_same_gradients(*results, tolerance=0)


@pytest.mark.parametrize(
    ("guess", "perturb"),
    [
        ("gaussian", "activity"),
        ("local", "activity_span"),
        ("local", "weight"),
        ("gaussian", "weight"),
        ("local", "weight_per_sample"),
    ],
)
def test_nor_does_it_in_single_precision(guess, perturb):
    """Where kernels differ and gradients of convolutions may have another layout in memory."""
    results = []
    for cosine in (False, True):
        model, estimator, batch = build({"model.width": 1 / 8}, dtype=torch.float32, guess=guess, perturb=perturb)
        torch.manual_seed(1)
        estimator.estimate(model, *batch, cosine=cosine)
        results.append(gradients(model))
    assert_same_gradients(*results, tolerance=0)


def test_the_exact_guess_has_no_cosine():
    blocks, batch = tapped_blocks()
    assert estimator_of(guess="exact").estimate(blocks, *batch, cosine=True).cosine is None
