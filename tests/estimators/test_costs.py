"""What a step costs, against counts by hand."""

import pytest
import torch
from torch import nn

from fglight.diagnostics.counting import count_derivatives
from fglight.diagnostics.profile import FlopCounter, costs, forward_flops, step_costs
from fglight.estimators import (
    ExactGuess,
    ForwardMode,
    GlobalTarget,
    GradientEstimator,
    LocalGuess,
    LocalTarget,
    WeightPerturbation,
)
from fglight.estimators.coefficients import Stale
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


def test_steps_that_take_turns_cost_their_mean_wherever_training_stands(network):
    """In forward mode a step without derivatives is local learning's."""
    images, labels = torch.randn(BATCH, WIDTH), torch.randint(WIDTH, (BATCH,))

    def cost(target, guess, space, engine=None, steps=0):
        estimator = GradientEstimator(target, guess, space, engine=engine)
        for _ in range(steps):
            estimator.estimate(network, images, labels)
        taken = count_derivatives(estimator, network.blocks, images, BATCH).taken
        return step_costs(estimator, network.blocks, images, labels).forwards, taken

    fresh, every = cost(GlobalTarget(), LocalGuess(), WeightPerturbation(), ForwardMode())
    local, none = cost(LocalTarget(), ExactGuess(), WeightPerturbation())
    assert (every, none) == (8, 0)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    for steps in (0, 2):
        stale = WeightPerturbation(coefficient=Stale(4))
        found = cost(GlobalTarget(), LocalGuess(), stale, ForwardMode(), steps)
        assert found == pytest.approx((local + (fresh - local) / 4, 2), rel=5e-3)  # beside lengths of directions
    never = WeightPerturbation(coefficient=Stale("inf"))
    assert cost(GlobalTarget(), LocalGuess(), never, ForwardMode()) == pytest.approx((local, 0), rel=5e-3)
    trained = {
        name: value for name, value in network.state_dict().items() if "running" not in name and "num" not in name
    }
    torch.testing.assert_close(trained, {name: before[name] for name in trained}, rtol=0, atol=0)


@pytest.mark.parametrize("groups", [1, 2, 8])
@pytest.mark.parametrize("kind", [nn.Conv2d, nn.ConvTranspose2d])
def test_a_convolution_of_groups_takes_backwards_what_it_takes_forwards_for_each_gradient(kind, groups):
    layer, images = kind(8, 8, 3, stride=2, groups=groups), torch.randn(2, 8, 9, 9, requires_grad=True)
    with FlopCounter() as forwards:
        output = layer(images)
    assert forwards.total > 0
    with FlopCounter() as both:
        output.sum().backward()
    with FlopCounter() as of_weights:
        layer(images.detach()).sum().backward()
    assert both.total == of_weights.total == 2 * forwards.total
