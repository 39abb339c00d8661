"""Guesses of one's own that ask for more than a local loss, against plain autograd."""

import pytest
import torch
from definition import Definition
from helpers import (
    ALL_PERTURBATIONS,
    TARGETS,
    assert_all_close,
    body_gradients,
    estimator_of,
    every_pair,
    every_way,
    uncoupled_blocks,
)

from fglight.estimators import ForwardMode, GradientEstimator, Guess, ReverseMode


def wave(like):
    return torch.cos(torch.arange(like.numel(), dtype=like.dtype) ** 2).view(like.shape)


class Energy(Guess):
    """The gradient of |h_j|^2 / 2: no auxiliary network, in the space of the parameters the block's graph."""

    def directions(self, here):
        return here.output.detach().unsqueeze(0)


class EnergyOfItsOwn(Energy):
    """The same, handed on by a method of its own: as if it were drawn there."""

    def in_space(self, here, pulled, likes, *, by_sample):
        return [g.clone() for g in pulled]


class Next(Guess):
    """A fixed cotangent of h_{j+1}, pulled back through block j+1."""

    needs = frozenset({"next"})

    def directions(self, here):
        (gradient,) = here.next.vjp(wave(here.next.output), [here.next.input])
        return gradient.unsqueeze(0)


class DrawnNext(Next):
    """The same with something drawn, so that blocks are taken from 0 on."""

    randomness = "shared"


def estimate(guess, target, perturb, granularity, engine, *, cosine=False):
    """Estimates, and how the definition finds the guess."""
    blocks, batch = uncoupled_blocks()
    parts = estimator_of({"perturb.granularity": granularity}, target=target, perturb=perturb)
    estimator = GradientEstimator(parts.target, guess, parts.perturbation, engine=engine)
    step = estimator.estimate(blocks, *batch, cosine=cosine)
    assert all(local is None or local.gradient is None for local in step.local)
    return body_gradients(blocks), Definition(blocks, *batch)


@every_pair(target=TARGETS, way=ALL_PERTURBATIONS, engine=[ReverseMode, ForwardMode], guess=[Energy, EnergyOfItsOwn])
def test_a_guess_through_the_block_without_auxiliaries(target, way, engine, guess):
    perturb, granularity = way
    found, definition = estimate(guess(), target, perturb, granularity, engine(), cosine=guess is EnergyOfItsOwn)
    expected = definition.estimates(target, perturb, granularity, lambda j: [definition.outputs[j].detach()])
    assert_all_close(found, expected, 1e-8)


@every_pair(target=TARGETS, way=ALL_PERTURBATIONS, guess=[Next, DrawnNext])
def test_a_guess_through_the_next_block(target, way, guess):
    perturb, granularity = way
    found, definition = estimate(guess(), target, perturb, granularity, ReverseMode(), cosine=guess is DrawnNext)

    def pulled_back(j):
        return definition.next_block(j, wave(definition.outputs[j + 1]))

    assert_all_close(found, definition.estimates(target, perturb, granularity, pulled_back), 1e-8)


@every_way
def test_forward_mode_refuses_a_guess_that_needs_the_next_block(perturb, granularity):
    with pytest.raises(ValueError, match=r"engine=forward is not possible with Next, .*: use engine=reverse"):
        estimate(Next(), "global", perturb, granularity, ForwardMode())
