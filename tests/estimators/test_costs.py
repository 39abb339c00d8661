"""What a step costs, against counts by hand."""

import pytest
import torch
from torch import nn

from fglight.diagnostics.profile import costs, forward_flops
from fglight.estimators import ExactGuess, GlobalTarget, GradientEstimator, WeightPerturbation
from fglight.models import Block, BlockNetwork

BATCH, WIDTH = 64, 32
CPU = torch.device("cpu")


@pytest.fixture
def network():
    torch.manual_seed(0)
    bodies = [nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.BatchNorm1d(WIDTH)) for _ in range(3)]
    return BlockNetwork([Block(body, nn.Linear(WIDTH, WIDTH)) for body in bodies])


def test_flops_of_a_forward_pass_and_of_backpropagation(network):
    images, labels = torch.randn(BATCH, WIDTH), torch.randint(WIDTH, (BATCH,))
    before = {name: value.clone() for name, value in network.state_dict().items()}
    product = 2 * BATCH * WIDTH * WIDTH
    assert forward_flops(network.blocks, images) == 4 * product  # three bodies and the head
    torch.testing.assert_close(network.state_dict(), before, rtol=0, atol=0)
    estimator = GradientEstimator(GlobalTarget(), ExactGuess(), WeightPerturbation())
    with costs(CPU) as seen:
        estimator.estimate(network, images, labels)
    assert seen.flops == (4 + 4 + 3) * product  # forward, weights, activities but for the images


def test_memory_is_the_peak_of_what_is_held_at_once():
    with costs(CPU) as seen:
        first = torch.zeros(1000)
        second = torch.zeros(2000)
        del first
        third = torch.zeros(500)
    assert seen.memory == 4 * 3000
    del second, third
