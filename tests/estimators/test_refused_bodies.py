"""What cannot be differentiated is refused in one line that names it."""

import pytest
import torch
import torch.nn.functional as F
from bodies import Body
from helpers import assert_close
from token_bodies import CLASSES, ENGINES, GUESSES, PAIRS, SAMPLES, WAYS, WIDTH, linear
from torch import nn
from torch.utils.checkpoint import checkpoint

from fglight.estimators import (
    ForwardMode,
    GlobalTarget,
    GradientEstimator,
    LocalGuess,
    ReverseMode,
    WeightPerturbation,
)
from fglight.models import Block, BlockNetwork


class WithoutTangents(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return 2 * x

    @staticmethod
    def backward(ctx, cotangent):
        return 2 * cotangent


class WithoutGradients(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return 2 * x

    @staticmethod
    def backward(ctx, cotangent):
        raise RuntimeError("there is none")


class Calls(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


class Checkpointed(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x):
        return checkpoint(self.layer, x, use_reentrant=True)


def refusal(layer, engine, way, guess="local"):
    """What is said of a network that has the layer in the middle, in one line."""
    torch.manual_seed(0)
    bodies = nn.Linear(4, 4), nn.Sequential(nn.Linear(4, 4), nn.Sequential(nn.Tanh(), layer)), nn.Linear(4, 4)
    blocks = [Block(body, nn.Linear(4, 3)) for body in bodies]
    estimator = GradientEstimator(GlobalTarget(), GUESSES[guess][0](), WAYS[way](), engine=engine())
    with pytest.raises(ValueError, match="engine=") as caught:
        estimator.estimate(blocks, torch.randn(5, 4), torch.arange(5) % 3)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
@pytest.mark.parametrize(("guess", "way"), PAIRS)
def test_a_layer_that_cannot_be_differentiated_is_named(guess, way):
    said = refusal(Calls(WithoutGradients.apply), ReverseMode, way, guess)
    assert said.startswith("engine=reverse cannot differentiate 1.1 of block 1, a Calls (there is none): use")
    said = refusal(Checkpointed(), ReverseMode, way, guess)
    assert said.startswith("engine=reverse cannot differentiate 1.1 of block 1, a Checkpointed (torch.utils.checkpoi")
    assert "use_reentrant=False" in said
    for layer in (Calls(WithoutTangents.apply), Checkpointed()):
        said = refusal(layer, ForwardMode, way, guess)
        assert said.startswith("engine=forward cannot differentiate 1.1 of block 1, a ")
        assert "engine=reverse" in said


@pytest.mark.parametrize(("guess", "way"), PAIRS)
def test_random_numbers_in_a_body_are_refused_in_forward_mode(guess, way):
    said = refusal(Calls(lambda x: F.dropout(x, 0.5)), ForwardMode, way, guess)
    assert said.startswith("engine=forward cannot differentiate ")
    assert "block 1" in said
    assert "random" in said


def test_a_parameter_that_cannot_be_replaced_is_named():
    body = Body(lambda s, x: torch.tanh(x @ s.kept[0]), layer=linear())
    body.kept = [body.layer.weight]
    blocks = [Block(body, nn.Linear(WIDTH, CLASSES)), Block(linear(), nn.Linear(WIDTH, CLASSES))]
    inputs, labels = torch.randn(SAMPLES, WIDTH), torch.arange(SAMPLES) % CLASSES
    estimator = GradientEstimator(GlobalTarget(), LocalGuess(), WeightPerturbation(), engine=ForwardMode())
    with pytest.raises(ValueError, match=r"engine=forward cannot move layer\.weight .*: use engine=reverse"):
        estimator.estimate(blocks, inputs, labels)


def test_blocks_that_share_parameters_are_refused():
    first, second, third = (Block(linear(), linear()) for _ in range(3))
    estimator = GradientEstimator(GlobalTarget(), LocalGuess(), WeightPerturbation())
    batch = torch.randn(SAMPLES, WIDTH), torch.arange(SAMPLES)
    second.body.weight = first.body.weight
    with pytest.raises(ValueError, match="weight of block 1 is also a parameter of block 0: use bodies"):
        estimator.estimate([first, second, third], *batch)
    second.body.weight = second.aux.weight
    with pytest.raises(ValueError, match="weight of block 1 is also a parameter of block 1: use bodies"):
        estimator.estimate([first, second, third], *batch)
    second.body.weight = nn.Parameter(torch.randn(WIDTH, WIDTH))
    third.body.weight = third.aux.weight  # the last block takes its exact gradient
    estimator.estimate([first, second, third], *batch)
    exact = torch.autograd.grad(
        F.cross_entropy(BlockNetwork([first, second, third])(batch[0]), batch[1]), third.aux.weight
    )
    assert_close(third.aux.weight.grad, exact[0], 1e-5)


def test_the_last_block_needs_no_tangents():
    blocks = [Block(nn.Linear(4, 4), nn.Linear(4, 3)) for _ in range(2)]
    blocks.append(Block(Calls(WithoutTangents.apply), nn.Linear(4, 3)))
    estimator = GradientEstimator(GlobalTarget(), LocalGuess(), WeightPerturbation(), engine=ForwardMode())
    estimator.estimate(blocks, torch.randn(5, 4), torch.arange(5) % 3)
    blocks[0].aux = nn.Linear(5, 3)  # an error of another kind is not blamed on it
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        estimator.estimate(blocks, torch.randn(5, 4), torch.arange(5) % 3)


def test_an_error_of_the_body_s_own_is_left_as_it_is():
    blocks = [Block(Calls(lambda x: x @ torch.ones(3, 3)), nn.Linear(3, 2)), Block(nn.Linear(3, 3), nn.Linear(3, 2))]
    for engine in ENGINES:
        with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
            GradientEstimator(GlobalTarget(), LocalGuess(), WeightPerturbation(), engine=engine()).estimate(
                blocks, torch.randn(2, 4), torch.ones(2)
            )
