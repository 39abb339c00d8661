"""The projection on the span of several guesses."""

import pytest
import torch
import torch.nn.functional as F
from definition import Definition, on_span
from helpers import (
    assert_close,
    body_gradients,
    estimator_of,
    tapped_blocks,
)
from torch import nn

from fglight.autodiff.linalg import span_coefficients, unit_rows


def project_on_span(targets, directions):
    """Projections of ``(targets, features)`` on the span of ``(directions, features)``."""
    unit = unit_rows(directions)
    return span_coefficients(targets @ unit.T, (unit @ unit.T)[None]) @ unit


@pytest.mark.parametrize("rank", [2, 5])
def test_the_span_projection_is_orthogonal(rank):
    torch.manual_seed(0)
    guesses = torch.randn(5, rank, dtype=torch.float64) @ torch.randn(rank, 40, dtype=torch.float64)
    guesses *= torch.logspace(-6, 0, 5, dtype=torch.float64)[:, None]  # lengths that differ must not matter
    targets = torch.randn(7, 40, dtype=torch.float64)
    projected = project_on_span(targets, guesses)
    unit = F.normalize(guesses, dim=1)
    assert ((targets - projected) @ unit.T).abs().max() < 1e-9  # nothing of the guesses is left
    assert_close(project_on_span(projected, guesses), projected)  # idempotent
    assert torch.linalg.matrix_rank(projected) == rank
    assert_close(project_on_span(guesses, guesses), guesses, 1e-9)


def test_guesses_that_differ_by_little_still_span_a_plane():
    torch.manual_seed(0)
    guess, difference, target = torch.randn(3, 1, 40, dtype=torch.float64)
    projected = project_on_span(target, torch.cat([guess, guess + 1e-4 * difference]))
    assert_close(projected, on_span(target[0], torch.cat([guess, difference]))[None], 1e-6)


def test_the_span_of_zero_guesses_is_zero():
    assert project_on_span(torch.ones(3, 4), torch.zeros(3, 4)).abs().max() == 0


def test_guesses_of_a_batch_normalised_auxiliary_are_dependent_and_still_projected_on():
    blocks, batch = tapped_blocks()
    for block, features in zip(blocks, (144, 54, 8)):
        block.aux = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(features), nn.Linear(features, 4)).double()
    definition = Definition(blocks, *batch)
    estimator_of(perturb="activity_span").estimate(blocks, *batch)
    for j, part in enumerate(body_gradients(blocks)):
        estimate, guess = part[-1].flatten(1), definition.activity("local", j).flatten(1)
        assert guess.sum(0).norm() < 1e-9 * guess.norm()
        residual = definition.activity("global", j).flatten(1) - estimate
        assert (residual @ F.normalize(guess, dim=1).T).abs().max() < 1e-9 * residual.norm()
        rank = torch.linalg.matrix_rank(guess, rtol=1e-9)
        assert torch.linalg.matrix_rank(torch.cat([guess, estimate]), rtol=1e-7) == rank < len(guess)
