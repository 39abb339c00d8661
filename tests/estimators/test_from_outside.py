"""What a user adds from outside: a guess with needs of its own, a target, an engine, a kind of layer."""

import pytest
import torch
from definition import Definition
from helpers import assert_all_close, body_gradients, estimator_of, every_pair, uncoupled_blocks
from torch import nn

from fglight.autodiff.layers.kinds import KINDS
from fglight.autodiff.layers.normalization import Normalization
from fglight.estimators import (
    Engine,
    FiniteDifferences,
    ForwardMode,
    GlobalTarget,
    GradientEstimator,
    Guess,
    LocalGuess,
    ReverseMode,
    Target,
    WeightPerSamplePerturbation,
    WeightPerturbation,
)
from fglight.models import Block


class Delayed(Guess):
    """The error at the logits one step before, through ones: it needs the error, and a tensor of its own that lasts."""

    needs = frozenset({"error"})
    keeps = ("last_error",)

    def begin(self, block, output, classes):
        return [output.new_zeros(len(output), classes)]

    def directions(self, block_pass):
        kept = block_pass.block.get_buffer("last_error")
        before = kept.clone()
        kept.copy_(block_pass.network.error)
        feedback = before.sum(1).view(-1, *[1] * (block_pass.output.dim() - 1))
        return (feedback + torch.ones_like(block_pass.output)).unsqueeze(0)


@every_pair(perturb=["activity", "weight", "weight_per_sample"], engine=[ReverseMode, ForwardMode, FiniteDifferences])
def test_a_guess_that_needs_something_new(perturb, engine):
    if engine is FiniteDifferences and perturb != "weight":
        perturb = "weight"
    blocks, (images, labels) = uncoupled_blocks()
    space = estimator_of(perturb=perturb).perturbation
    estimator = GradientEstimator(GlobalTarget(), Delayed(), space, engine=engine())
    definition = Definition(blocks, images, labels)
    error = definition.error()
    for before in (torch.zeros_like(error), error):  # the same network twice, which nobody trains

        def direction(j, before=before):
            output = definition.outputs[j].detach()
            return [before.sum(1).view(-1, *[1] * (output.dim() - 1)) + torch.ones_like(output)]

        estimator.estimate(blocks, images, labels)
        expected = definition.estimates("global", perturb, space.granularity, direction)
        assert_all_close(body_gradients(blocks), expected, 1e-4 if engine is FiniteDifferences else 1e-8)


class TwoAhead(Target):
    """Each block follows the loss two blocks further on."""

    uses_auxiliaries = True

    def loss_block(self, j, last):
        return min(j + 2, last)


@pytest.mark.parametrize("engine", [ReverseMode, ForwardMode, FiniteDifferences])
def test_a_target_is_the_same_in_all_engines(engine):
    blocks, batch = uncoupled_blocks()
    estimator = GradientEstimator(TwoAhead(), LocalGuess(), WeightPerturbation(), engine=engine())
    estimator.estimate(blocks, *batch)
    definition = Definition(blocks, *batch)
    expected = definition.estimates(TwoAhead(), "weight", "tensor")
    assert_all_close(body_gradients(blocks), expected, 1e-4 if engine is FiniteDifferences else 1e-8)


class Halved(Engine):
    """Half of what reverse mode finds."""

    name = "engine=halved"
    remedy = "use engine=reverse"

    def products(self, network, guess, space, *, cosine):
        for parts, products, squares in ReverseMode().products(network, guess, space, cosine=cosine):
            yield parts, products and [product / 2 for product in products], squares


@pytest.mark.parametrize("perturb", ["activity", "weight", "weight_per_sample", "activity_span"])
def test_an_engine(perturb):
    found = []
    for engine in (ReverseMode(), Halved()):
        blocks, batch = uncoupled_blocks()
        parts = estimator_of(perturb=perturb)
        estimator = GradientEstimator(parts.target, parts.guess, parts.perturbation, engine=engine)
        estimator.estimate(blocks, *batch, cosine=True)
        found.append(body_gradients(blocks))
    assert_all_close(found[1], [[g / 2 for g in part] for part in found[0]])


class Norm(nn.Module):
    """A layer that nobody knows."""

    def __init__(self, size):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))

    def forward(self, x):
        x = nn.functional.normalize(x, dim=-1)
        return x if self.weight is None else x * self.weight


@pytest.mark.parametrize("engine", [ReverseMode, ForwardMode])
def test_a_kind_of_layer_becomes_fast_and_stays_right(engine, monkeypatch):
    torch.manual_seed(0)
    blocks = [Block(nn.Sequential(nn.Linear(6, 6), Norm(6)), nn.Linear(6, 3)).double() for _ in range(3)]
    batch = torch.randn(5, 4, 6, dtype=torch.float64), torch.randint(3, (5, 4))
    for block in blocks:
        block.aux = nn.Sequential(nn.Linear(6, 3), Transposed()).double()
    estimator = GradientEstimator(GlobalTarget(), LocalGuess(), WeightPerSamplePerturbation(), engine=engine())
    estimator.estimate(blocks, *batch)
    slow = [[g.clone() for g in part] for part in body_gradients(blocks)]
    assert {check.path for check in estimator.check(blocks, batch[0]) if check.kind == "Norm"} >= {"slow"}
    with monkeypatch.context() as patch:
        patch.setitem(KINDS, Norm, None)
        Normalization(Norm, on_channels=False)
        estimator.estimate(blocks, *batch)
        assert {check.path for check in estimator.check(blocks, batch[0])} == {"fast"}
    assert_all_close(body_gradients(blocks), slow)


class Transposed(nn.Module):
    """Classes to where the loss has them."""

    def forward(self, x):
        return x.transpose(1, 2)
