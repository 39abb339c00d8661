"""Measures of an estimate against plain autograd, and that they leave everything where it was."""

from copy import deepcopy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fglight.estimators import ExactGuess, GlobalTarget, GradientEstimator, LocalGuess, WeightPerturbation
from fglight.estimators.measures import measure
from fglight.models import Block, BlockNetwork

LR = 0.1


def network() -> BlockNetwork:
    def block(inputs: int, outputs: int) -> Block:
        layers = nn.Sequential(nn.Linear(inputs, outputs), nn.BatchNorm1d(outputs), nn.Dropout(0.2), nn.Tanh())
        return Block(layers, nn.Linear(outputs, 3))

    torch.manual_seed(0)
    return BlockNetwork([block(5, 7), block(7, 6), block(6, 4)])


def loss_of(model: BlockNetwork, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    hidden = images
    for block in model.blocks:
        hidden = block.body(hidden)
    return F.cross_entropy(model.blocks[-1].aux(hidden), labels)


@pytest.fixture
def batch():
    torch.manual_seed(1)
    return torch.randn(12, 5), torch.randint(3, (12,))


@pytest.fixture
def model():
    model = network()
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return model


def test_each_measure_is_what_plain_autograd_says(model, batch):
    GradientEstimator(GlobalTarget(), LocalGuess(), WeightPerturbation()).estimate(model, *batch)
    measured = measure(model.blocks, *batch, LR, channels_last=False)
    exact = deepcopy(model)
    exact.zero_grad()
    before = loss_of(exact, *batch)
    before.backward()
    for j, (block, same) in enumerate(zip(model.blocks[:-1], exact.blocks)):
        ours = torch.cat([p.grad.flatten() for p in block.body.parameters()])
        target = torch.cat([p.grad.flatten() for p in same.body.parameters()])
        stepped = deepcopy(model)
        with torch.no_grad():
            for moved, parameter in zip(stepped.blocks[j].body.parameters(), block.body.parameters()):
                moved -= LR * parameter.grad
        expected = (
            target.norm(),
            ours.norm(),
            torch.cosine_similarity(ours, target, dim=0),
            before - loss_of(stepped, *batch),
        )
        torch.testing.assert_close([values[j] for values in vars(measured).values()], list(expected))


def test_backpropagation_is_aligned_with_the_gradient_and_a_block_without_estimate_gains_nothing(model, batch):
    GradientEstimator(GlobalTarget(), ExactGuess(), WeightPerturbation()).estimate(model, *batch)
    for parameter in model.blocks[1].body.parameters():
        parameter.grad = None
    measured = measure(model.blocks, *batch, LR, channels_last=False)
    torch.testing.assert_close(measured.alignment[0], torch.tensor(1.0))
    assert measured.decrease[0] > 0
    assert (measured.estimate[1], measured.decrease[1]) == (0, 0)
    assert measured.alignment[1].isnan()


def test_nothing_moves(batch):
    model = network()
    GradientEstimator(GlobalTarget(), LocalGuess(), WeightPerturbation()).estimate(model, *batch)
    before, gradients = deepcopy(model), [p.grad if p.grad is None else p.grad.clone() for p in model.parameters()]
    state = torch.get_rng_state()
    measure(model.blocks, *batch, LR, channels_last=False)
    assert torch.get_rng_state().equal(state)
    torch.testing.assert_close(model.state_dict(), before.state_dict(), rtol=0, atol=0)
    for parameter, gradient in zip(model.parameters(), gradients):
        assert parameter.grad is gradient if gradient is None else parameter.grad.equal(gradient)


def test_blocks_without_parameters_and_parameters_without_use(batch):
    class Unused(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.left = nn.Linear(5, 5), nn.Parameter(torch.ones(3))

        def forward(self, x):
            return self.inner(x)

    model = BlockNetwork([Block(body, nn.Linear(5, 3)) for body in (nn.Tanh(), Unused(), nn.Tanh())])
    GradientEstimator(GlobalTarget(), ExactGuess(), WeightPerturbation()).estimate(model, *batch)
    measured = measure(model.blocks, *batch, LR, channels_last=False)
    assert measured.target[0] == 0
    assert measured.alignment[1] == pytest.approx(1)


def test_where_the_last_block_alone_is_trained(model, batch):
    for block in model.blocks[:-1]:
        block.body.requires_grad_(False)
    GradientEstimator(GlobalTarget(), ExactGuess(), WeightPerturbation()).estimate(model, *batch)
    measured = measure(model.blocks, *batch, LR, channels_last=False)
    assert measured.target.tolist() == measured.estimate.tolist() == measured.decrease.tolist() == [0.0, 0.0]
