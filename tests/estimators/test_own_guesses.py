"""Guesses of one's own that ask for more than a local loss, against plain autograd."""

import pytest
import torch
from helpers import (
    ALL_PERTURBATIONS,
    TARGETS,
    Definition,
    assert_all_close,
    body_gradients,
    estimator_of,
    uncoupled_blocks,
)

from fglight.estimators import ForwardMode, GradientEstimator, Guess, ReverseMode

every_perturbation = pytest.mark.parametrize(("perturb", "granularity"), ALL_PERTURBATIONS)
every_target = pytest.mark.parametrize("target", TARGETS)


def wave(like):
    return torch.cos(torch.arange(like.numel(), dtype=like.dtype) ** 2).view(like.shape)


class Energy(Guess):
    """The gradient of |h_j|^2 / 2: no auxiliary network, in the space of the parameters the block's graph."""

    def activity(self, here):
        return here.output.detach().unsqueeze(0)


class EnergyOfItsOwn(Energy):
    """The same, pulled back by a method of its own."""

    def weight(self, here):
        return [g.unsqueeze(0) for g in here.to_parameters(here.output.detach(), keep=False)]


class Next(Guess):
    """A fixed cotangent of h_{j+1}, pulled back through block j+1."""

    needs_next_block = True

    def activity(self, here):
        (gradient,) = here.next.vjp(wave(here.next.output), [here.next.input])
        return gradient.unsqueeze(0)


class DrawnNext(Next):
    """The same with something drawn, so that blocks are taken from 0 on."""

    drawn = True


def estimate(guess, target, perturb, granularity, engine, *, cosine=False):
    """Estimates, and how the definition finds the guess."""
    blocks, batch = uncoupled_blocks()
    parts = estimator_of({"perturb.granularity": granularity}, target=target, perturb=perturb)
    estimator = GradientEstimator(parts.target, guess, parts.perturbation, engine=engine)
    step = estimator.estimate(blocks, *batch, cosine=cosine)
    assert all(local is None or local.gradient is None for local in step.local)
    return body_gradients(blocks), Definition(blocks, *batch)


@pytest.mark.parametrize(("guess", "cosine"), [(Energy, False), (EnergyOfItsOwn, True)])
@pytest.mark.parametrize("engine", [ReverseMode, ForwardMode])
@every_perturbation
@every_target
def test_a_guess_through_the_block_without_auxiliaries(target, perturb, granularity, engine, guess, cosine):
    found, definition = estimate(guess(), target, perturb, granularity, engine(), cosine=cosine)
    assert_all_close(
        found, definition.estimates(target, perturb, granularity, lambda j: definition.outputs[j].detach()), 1e-8
    )


@pytest.mark.parametrize(("guess", "cosine"), [(Next, False), (DrawnNext, True)])
@every_perturbation
@every_target
def test_a_guess_through_the_next_block(target, perturb, granularity, guess, cosine):
    found, definition = estimate(guess(), target, perturb, granularity, ReverseMode(), cosine=cosine)

    def pulled_back(j):
        here, after = definition.outputs[j : j + 2]
        return torch.autograd.grad(after, here, wave(after), retain_graph=True)[0]

    assert_all_close(found, definition.estimates(target, perturb, granularity, pulled_back), 1e-8)


@every_perturbation
def test_forward_mode_refuses_a_guess_that_needs_the_next_block(perturb, granularity):
    with pytest.raises(ValueError, match=r"engine=forward is not possible with Next, .*: accepted is engine=reverse"):
        estimate(Next(), "global", perturb, granularity, ForwardMode())
