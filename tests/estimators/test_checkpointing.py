"""Backpropagation that keeps blocks' inputs alone gives the same gradients, and leaves all else as it does."""

from copy import deepcopy

import pytest
import torch
from helpers import TARGETS, assert_same_gradients, build, estimator_of, gradients, snapshot, tapped_blocks
from torch import nn
from torch.nn.utils import parametrizations

from fglight.config.settings import choices
from fglight.errors import ConfigError
from fglight.models import Block

PLAIN_AND_NOT = (False, True)


def moving_blocks():
    """Blocks that draw random numbers and move buffers that matter: ``(blocks, (images, labels))``."""
    torch.manual_seed(0)
    bodies = [
        nn.Sequential(nn.Flatten(), nn.Linear(12, 8), nn.BatchNorm1d(8), nn.ReLU(inplace=True), nn.Dropout(0.3)),
        nn.Sequential(parametrizations.spectral_norm(nn.Linear(8, 8)), nn.Tanh(), nn.Dropout(0.5)),
        nn.Sequential(nn.Linear(8, 6), nn.BatchNorm1d(6), nn.Dropout(0.2)),
        nn.Linear(6, 6),
    ]
    blocks = [Block(body, nn.Linear(width, 4)).double() for body, width in zip(bodies, (8, 8, 6, 6))]
    return blocks, (torch.randn(7, 3, 4, dtype=torch.float64), torch.arange(7) % 4)


@pytest.mark.parametrize("make", [moving_blocks, tapped_blocks])
@pytest.mark.parametrize("target", TARGETS)
def test_gradients_buffers_and_random_numbers_are_those_of_plain_backpropagation(target, make):
    blocks, batch = make()
    found = []
    for checkpointing in PLAIN_AND_NOT:
        copies = deepcopy(blocks)
        torch.manual_seed(1)
        settings = {"checkpointing": checkpointing}
        step = estimator_of(settings, guess="exact", target=target).estimate(copies, *batch)
        found.append((gradients(copies), snapshot(nn.ModuleList(copies)), torch.get_rng_state(), step.loss))
    assert_same_gradients(found[1][0], found[0][0], 1e-12)
    for name, value in found[0][1].items():
        assert torch.equal(found[1][1][name], value), name
    assert torch.equal(found[0][2], found[1][2])
    assert torch.equal(found[0][3], found[1][3])


def test_under_autocast():
    found = []
    for checkpointing in PLAIN_AND_NOT:
        settings = {"checkpointing": checkpointing}
        model, estimator, batch = build(settings, guess="exact", dtype=torch.float32)
        with torch.autocast("cpu", torch.bfloat16):
            estimator.estimate(model, *batch)
        found.append(gradients(model))
    assert_same_gradients(found[1], found[0], 1e-6)


def test_every_block_but_the_last_runs_twice():
    blocks, batch = tapped_blocks()
    runs = [0] * len(blocks)
    for index, block in enumerate(blocks):
        block.body[0].register_forward_hook(lambda *_, index=index: runs.__setitem__(index, runs[index] + 1))
    estimator_of({"checkpointing": True}, guess="exact").estimate(blocks, *batch)
    assert runs == [2, 2, 2, 1]


@pytest.mark.parametrize("guess", [guess for guess in choices("guess") if guess != "exact"])
def test_other_guesses_are_refused(guess):
    with pytest.raises(ConfigError, match=r"^checkpointing=true is not possible with \w+Guess, .*: leave it out, or"):
        estimator_of({"checkpointing": True}, guess=guess)


def test_compiled_steps_are_refused():
    with pytest.raises(ConfigError, match=r"^compile=true cannot go with checkpointing=true: use false for"):
        estimator_of({"checkpointing": True, "compile": True}, guess="exact")
