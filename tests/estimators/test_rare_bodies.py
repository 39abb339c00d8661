"""Bodies that few networks have: they change their input, use a weight twice under autocast, are partly frozen ..."""

import pytest
import torch
from helpers import assert_close, assert_same_gradients, gradients, tapped_blocks
from torch import nn

from fglight.errors import BlockError
from fglight.estimators import (
    ActivityPerturbation,
    ActivitySpanPerturbation,
    DFAGuess,
    ExactGuess,
    FiniteDifferences,
    ForwardMode,
    GlobalTarget,
    GradientEstimator,
    LocalGuess,
    LocalTarget,
    MomentumGuess,
    NTKGuess,
    ReverseMode,
    WeightPerSamplePerturbation,
    WeightPerturbation,
)
from fglight.models import Block, SeveralAuxiliaries

BATCH = (torch.randn(6, 4, generator=torch.Generator().manual_seed(0)), torch.arange(6) % 3)


def network(*first, where=0, bodies=3):
    """Linear blocks, of which one begins with other layers."""
    torch.manual_seed(0)
    layers = [[*(layer() for layer in first if j == where), nn.Linear(4, 4), nn.Tanh()] for j in range(bodies)]
    return [Block(nn.Sequential(*body), nn.Linear(4, 3)) for body in layers]


class Doubles(nn.Module):
    """Changes what it takes in."""

    def forward(self, x):
        return x.mul_(2)


@pytest.mark.parametrize("engine", [ReverseMode, ForwardMode, FiniteDifferences])
@pytest.mark.parametrize("target", [GlobalTarget, LocalTarget])
@pytest.mark.parametrize("granularity", ["network", "tensor"])
@pytest.mark.parametrize("where", [0, 1])
def test_bodies_that_change_their_input_are_refused(engine, target, granularity, where):
    blocks, (images, labels) = network(Doubles, where=where), BATCH
    estimator = GradientEstimator(target(), LocalGuess(), WeightPerturbation(granularity), engine=engine())
    with pytest.raises(BlockError, match=rf"block {where}\b.*in.?place"):
        estimator.estimate(blocks, images.clone(), labels)
    assert all(parameter.grad is None for block in blocks for parameter in block.parameters())
    (found, *_) = [layer for layer in estimator.check(blocks, images.clone()) if layer.path == "refused"]
    assert "in-place" in found.why or "in place" in found.why


@pytest.mark.parametrize(("guess", "where"), [(DFAGuess, 0), (MomentumGuess, 0), (ExactGuess, 1)])
def test_so_are_they_with_other_guesses(guess, where):
    perturbation = WeightPerturbation()
    target = LocalTarget() if guess is ExactGuess else GlobalTarget()
    with pytest.raises(BlockError, match=rf"block {where} changes its input in place"):
        GradientEstimator(target, guess(), perturbation).estimate(network(Doubles, where=where), *_copy(BATCH))


def _copy(batch):
    return [tensor.clone() for tensor in batch]


class Twice(nn.Module):
    """A linear layer that is used twice."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x):
        return self.layer(torch.tanh(self.layer(x)))


@pytest.mark.parametrize(
    ("guess", "perturbation"),
    [
        (LocalGuess(), WeightPerturbation),
        (LocalGuess(), WeightPerSamplePerturbation),
        (NTKGuess(directions=3, combine="span"), ActivityPerturbation),
    ],
)
def test_autocasts_cache_changes_no_estimate(guess, perturbation):
    found = []
    for cached in (True, False):
        blocks = network(Twice)
        with torch.autocast("cpu", torch.bfloat16, cache_enabled=cached):
            torch.manual_seed(0)
            GradientEstimator(GlobalTarget(), guess, perturbation()).estimate(blocks, *BATCH)
            assert torch.is_autocast_cache_enabled() == cached
            assert torch.get_autocast_dtype("cpu") is torch.bfloat16
        found.append(gradients(blocks))
    assert_same_gradients(*found, 0)


class Scaled(nn.Module):
    """A factor without dimensions."""

    def __init__(self):
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(0.7))

    def forward(self, x):
        return self.factor * x


@pytest.mark.parametrize("engine", [ReverseMode, ForwardMode])
def test_of_a_single_number_every_sample_has_the_exact_gradient(engine):
    found = []
    for guess, used in ((LocalGuess(), engine()), (ExactGuess(), ReverseMode())):
        blocks = [block.double() for block in network(Scaled)]
        images, labels = BATCH
        estimator = GradientEstimator(GlobalTarget(), guess, WeightPerSamplePerturbation(), engine=used)
        estimator.estimate(blocks, images.double(), labels)
        found.append(blocks[0].body[0].factor.grad)
    assert_close(*found)


@pytest.mark.parametrize("target", [GlobalTarget, LocalTarget])
@pytest.mark.parametrize("guess", [LocalGuess, ExactGuess, DFAGuess])
@pytest.mark.parametrize("engine", [ReverseMode, ForwardMode])
def test_a_last_block_that_is_not_trained_changes_nothing_below(engine, guess, target):
    found = []
    for frozen in (False, True):
        blocks, batch = tapped_blocks()
        blocks[-1].requires_grad_(not frozen)
        torch.manual_seed(1)
        engine_used = None if guess is ExactGuess else engine()
        GradientEstimator(target(), guess(), WeightPerturbation(), engine=engine_used).estimate(blocks, *batch)
        found.append({name: gradient for name, gradient in gradients(blocks).items() if not name.startswith("3.")})
        assert all((parameter.grad is None) == frozen for parameter in blocks[-1].parameters())
    assert_same_gradients(*found)


@pytest.mark.parametrize(("guess", "name"), [(DFAGuess(), "feedback"), (MomentumGuess(), "momentum")])
def test_a_block_put_in_later_leaves_what_others_keep(guess, name):
    blocks = network(bodies=4)
    estimator = GradientEstimator(GlobalTarget(), guess, WeightPerturbation())
    estimator.estimate(blocks, *BATCH)
    before = [block.get_buffer(name).clone() for block in blocks[:-1]]
    blocks[1] = Block(nn.Linear(4, 4), nn.Linear(4, 3))
    estimator.guess.set_up(blocks, BATCH[0])
    after = [block.get_buffer(name) for block in blocks[:-1]]
    assert torch.equal(after[0], before[0])
    assert torch.equal(after[2], before[2])
    assert not torch.equal(after[1], before[1])


def test_momentum_of_weights_of_several_dtypes_has_the_widest():
    blocks = network()
    blocks[0].body[0].weight.data = blocks[0].body[0].weight.data.bfloat16()
    blocks[0].body[0].forward = lambda x: nn.functional.linear(x, blocks[0].body[0].weight.float())
    estimator = GradientEstimator(GlobalTarget(), MomentumGuess(), WeightPerturbation())
    for _ in range(2):
        estimator.estimate(blocks, *BATCH)
    assert blocks[0].momentum.dtype is torch.float32
    assert blocks[0].body[0].weight.grad.dtype is torch.bfloat16


@pytest.mark.parametrize("engine", [ReverseMode, ForwardMode, FiniteDifferences])
def test_one_coefficient_for_all_blocks_needs_as_many_directions_of_each(engine):
    blocks = network()
    blocks[0].aux = SeveralAuxiliaries([nn.Linear(4, 3), nn.Linear(4, 3)])
    for granularity in ("tensor", "block", "network"):
        perturbation = WeightPerturbation(granularity)
        estimator = GradientEstimator(GlobalTarget(), LocalGuess(combine="span"), perturbation, engine=engine())
        if granularity != "network":
            estimator.estimate(blocks, *BATCH)
            continue
        words = "needs as many directions of each block, and there are 1 or 2: use block or tensor"
        with pytest.raises(BlockError, match=words):
            estimator.estimate(blocks, *BATCH)


def outputs_of_one_number(flat):
    """Blocks whose second gives one number per sample, of shape ``(batch,)`` or ``(batch, 1)``."""
    torch.manual_seed(0)
    end, begin = ([nn.Flatten(0)], [nn.Unflatten(0, (6, 1))]) if flat else ([], [])
    second, third = nn.Sequential(nn.Linear(4, 1), nn.Tanh(), *end), nn.Sequential(*begin, nn.Linear(1, 4))
    heads = nn.Linear(4, 3), nn.Sequential(*begin, nn.Linear(1, 3)), nn.Linear(4, 3)
    return [Block(body, head).double() for body, head in zip((nn.Linear(4, 4), second, third), heads)]


@pytest.mark.parametrize("engine", [ReverseMode, ForwardMode])
@pytest.mark.parametrize(
    "perturbation",
    [
        ActivityPerturbation(),
        ActivityPerturbation("channel"),
        ActivitySpanPerturbation(),
        WeightPerturbation(),
        WeightPerSamplePerturbation(),
    ],
    ids=lambda perturbation: type(perturbation).__name__,
)
def test_a_block_may_give_one_number_without_a_dimension_for_it(engine, perturbation):
    images, labels = BATCH[0].double(), BATCH[1]
    with_and_without = [outputs_of_one_number(flat) for flat in (False, True)]
    for blocks in with_and_without:
        GradientEstimator(GlobalTarget(), LocalGuess(), perturbation, engine=engine()).estimate(blocks, images, labels)
    with_one, without = ([p.grad for block in blocks for p in block.parameters()] for blocks in with_and_without)
    for expected, found in zip(with_one, without, strict=True):
        assert_close(found, expected)
