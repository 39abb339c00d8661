"""Modules that are no chains, cut where submodules of theirs begin."""

from collections import namedtuple
from copy import deepcopy

import pytest
import torch
from helpers import estimator_of
from torch import nn
from torch.nn import functional as F

from fglight.errors import BlockError
from fglight.estimators import (
    ActivityPerturbation,
    ExactGuess,
    FiniteDifferences,
    ForwardMode,
    GlobalTarget,
    GradientEstimator,
    LocalGuess,
    WeightPerSamplePerturbation,
    WeightPerturbation,
)
from fglight.models import split

WIDTH, CLASSES, LENGTH = 4, 3, 5
Given = namedtuple("Given", ["logits", "hidden"])


class Angles(nn.Module):
    """Constants of the positions, of no parameters, which every layer takes."""

    def __init__(self):
        super().__init__()
        self.register_buffer("frequencies", torch.linspace(0.1, 1, WIDTH))

    def forward(self, hidden):
        return torch.cos(torch.arange(hidden.shape[1]).to(hidden)[:, None] * self.frequencies)


class Layer(nn.Module):
    """Takes keywords and gives a tuple, as layers of language models do."""

    kind = "full"

    def __init__(self):
        super().__init__()
        self.mix, self.norm = nn.Linear(WIDTH, WIDTH), nn.LayerNorm(WIDTH)

    def forward(self, *, mask, hidden, angles):
        scores = (hidden @ hidden.mT).masked_fill(~mask[:, None, :], -1e9)
        return self.norm(hidden + self.mix(scores.softmax(-1) @ (hidden * angles))), None


class Words(nn.Module):
    """Tokens with a mask, positions of its own, layers in a list, and a structure that it gives."""

    def __init__(self):
        super().__init__()
        self.tokens, self.angles = nn.Embedding(7, WIDTH), Angles()
        self.positions = nn.Parameter(torch.randn(LENGTH, WIDTH) / 4)
        self.layers = nn.ModuleList(Layer() for _ in range(3))
        self.scale = nn.Parameter(torch.ones(WIDTH))
        self.head = nn.Linear(WIDTH, CLASSES)

    def forward(self, ids, mask):
        hidden = self.tokens(ids) + self.positions
        angles = self.angles(hidden)
        for layer in self.layers:
            assert layer.kind == "full"
            hidden, _ = layer(mask=mask > 0, hidden=hidden, angles=angles)
        return Given(self.head(hidden.mean(1) * self.scale), hidden)


class Branches(nn.Module):
    """The output of ``first`` goes past ``second``."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.third = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, CLASSES)

    def forward(self, x):
        x = F.relu_(self.first(x))
        return self.third(x + self.second(x).tanh())


class Twice(nn.Module):
    """Calls ``inner`` before and after ``middle``."""

    def __init__(self):
        super().__init__()
        self.inner, self.middle, self.last = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, CLASSES)

    def forward(self, x):
        return self.last(self.inner(self.middle(self.inner(x))))


def unpacked(packed):
    return {"ids": packed[:, 0], "mask": packed[:, 1]}


def words():
    torch.manual_seed(0)
    network, ids = Words().double(), torch.randint(7, (4, LENGTH))
    mask = torch.ones_like(ids)
    mask[1, 3:] = 0
    labels = torch.tensor([0, 1, 2, 0])
    return network, torch.stack([ids, mask], 1), labels


def test_segments_one_after_the_other_are_the_network_and_their_gradients_its_own():
    network, packed, labels = words()
    cut = split(network, ["layers.1", "layers.2"], packed, inputs=unpacked)
    expected = network(**unpacked(packed)).logits
    torch.testing.assert_close(cut(packed), expected, rtol=0, atol=1e-12)
    GradientEstimator(GlobalTarget(), ExactGuess(), WeightPerturbation()).estimate(cut, packed, labels)
    found = {name: p.grad.clone() for name, p in network.named_parameters()}
    network.zero_grad()
    F.cross_entropy(network(**unpacked(packed)).logits, labels).backward()
    torch.testing.assert_close(found, {name: p.grad for name, p in network.named_parameters()}, rtol=0, atol=1e-12)
    held = [{id(p) for p in block.body.parameters()} for block in cut.blocks]
    assert id(network.positions) in held[0]
    assert id(network.scale) in held[2]
    assert sum(map(len, held)) == len(list(network.parameters()))


@pytest.mark.parametrize("space", [ActivityPerturbation, WeightPerturbation, WeightPerSamplePerturbation])
def test_engines_agree_on_them(space):
    network, packed, labels = words()
    cut = split(network, ["layers.1", "layers.2"], packed, inputs=unpacked)
    engines = [None, ForwardMode(), *([FiniteDifferences()] if space is WeightPerturbation else [])]
    found = []
    for engine in engines:
        GradientEstimator(GlobalTarget(), LocalGuess(), space(), engine=engine).estimate(cut, packed, labels)
        found.append(torch.cat([p.grad.flatten() for block in cut.blocks[:-1] for p in block.body.parameters()]))
    for other in found[1:]:
        torch.testing.assert_close(other, found[0], rtol=0, atol=1e-5)
    assert found[0].norm() > 0


def test_they_train_copies_too_and_on_batches_of_any_size():
    network, packed, labels = words()
    cut = deepcopy(split(network, ["layers.1"], packed, inputs=unpacked))
    before = deepcopy(network.state_dict())
    estimator = GradientEstimator(GlobalTarget(), LocalGuess(), WeightPerturbation())
    optimizer = torch.optim.SGD(estimator.trained_parameters(cut), lr=0.3)
    losses = []
    for step in range(20):
        rows = slice(step % 2, None)
        losses.append(float(estimator.estimate(cut, packed[rows], labels[rows]).loss))
        optimizer.step()
    assert losses[-1] < 0.5 * losses[0]
    torch.testing.assert_close(network.state_dict(), before, rtol=0, atol=0)
    with pytest.raises(BlockError, match="block 1 of a cut module must run behind block 0, on as many samples"):
        cut.blocks[1].body(torch.zeros(9, LENGTH, WIDTH, dtype=torch.float64))


@pytest.mark.parametrize("guess", ["gaussian", "local"])
def test_their_layers_are_seen_by_sample_as_those_of_any_block(guess):
    """A step looks with more samples than the batch has, and later segments then read the masks of the right ones."""
    network, batch, labels = words()
    blocks = split(network, ["layers.1", "layers.2"], batch, inputs=unpacked)
    estimator = estimator_of(guess=guess, perturb="weight_per_sample")
    estimator.estimate(blocks, batch, labels)
    assert {layer.path for layer in estimator.check(blocks, batch) if layer.kind == "Linear"} == {"fast"}


class Masked(nn.Module):
    """Takes a pair and gives one, of which the second is as it was."""

    def __init__(self, outputs):
        super().__init__()
        self.mix = nn.Linear(4, outputs)

    def forward(self, pair):
        hidden, mask = pair
        return torch.tanh(self.mix(hidden)) * mask, mask


class Halves(nn.Module):
    def forward(self, x):
        return x[:, :4], x[:, 4:]


@pytest.mark.parametrize("perturbation", [WeightPerturbation, WeightPerSamplePerturbation])
def test_a_chain_of_layers_with_two_inputs(perturbation):
    """What they hand on as it is need not cross a cut."""
    torch.manual_seed(0)
    network = nn.Sequential(Halves(), Masked(4), Masked(4), Masked(CLASSES)).double()
    x, labels = torch.cat([torch.randn(6, 4), torch.rand(6, 1)], 1).double(), torch.randint(CLASSES, (6,))
    expected = torch.autograd.grad(F.cross_entropy(network(x)[0], labels), [*network.parameters()])
    blocks = split(network, ["2", "3"], x)
    assert torch.equal(blocks(x), network(x)[0])
    GradientEstimator(GlobalTarget(), ExactGuess(), perturbation()).estimate(blocks, x, labels)
    torch.testing.assert_close([p.grad for p in network.parameters()], [*expected])


def test_modes_are_those_of_what_is_around_them():
    network, packed, _ = words()
    cut = split(network, ["layers.1"], packed, inputs=unpacked)
    cut.eval()
    assert not network.training
    assert not any(module.training for module in network.layers[1].modules())
    cut.train()
    assert network.training


def test_a_number_of_blocks_is_cut_where_one_tensor_is_handed_on():
    torch.manual_seed(0)
    network, packed, _ = words()
    cut = split(network, 3, packed, inputs=unpacked)
    assert [block.body.whole.starts for block in cut.blocks] == [
        ["layers.1", "layers.2"]
    ] * 3  # no layer is an embedding
    branched = split(Branches(), 2, torch.randn(6, 4))
    assert branched.blocks[1].body.whole.starts == ["third"]
    with pytest.raises(ValueError, match=r"^blocks must be at most 2, as one tensor can be handed on so often, got 3$"):
        split(Branches(), 3, torch.randn(6, 4))


@pytest.mark.parametrize(
    ("module", "names", "said"),
    [
        (
            Branches,
            ["second"],
            r"one tensor must cross the cuts at second, and what first gives does, too: cut",
        ),
        (
            Branches,
            ["fourth"],
            r"blocks must begin with submodules of the network, such as first, second, .* got f",
        ),
        (Branches, ["third", "second"], r"blocks must begin with submodules in the order of first, second, third, got"),
        (
            Branches,
            ["first"],
            r"blocks must begin with submodules in the order of first, .* got \['first'\]",
        ),
        (Branches, [1], r"blocks must be a number, or names of submodules of Branches, got \[1\]"),
        (Twice, ["middle"], r"inner is called in blocks 0 and 1: cut so that one has all calls"),
        (Twice, ["inner"], r"blocks must begin with submodules that are called once, got inner: use"),
    ],
)
def test_what_cannot_be_cut_is_told(module, names, said):
    with pytest.raises(ValueError, match=f"^{said}"):
        split(module(), names, torch.randn(6, 4))


def test_the_whole_network_in_their_place_is_told_how_to_cut():
    with pytest.raises(BlockError, match=r"got a Branches: fglight.models.split\(network, names, example\) cuts it wh"):
        GradientEstimator(GlobalTarget(), ExactGuess(), WeightPerturbation()).estimate(
            Branches(), torch.randn(6, 4), torch.zeros(6, dtype=torch.long)
        )


class Normed(nn.Module):
    """Has running statistics, and a parameter of its own."""

    def __init__(self):
        super().__init__()
        self.first, self.norm, self.last = nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, CLASSES)
        self.shift = nn.Parameter(torch.ones(4))

    def forward(self, x):
        return self.last(self.norm(self.first(x)) + self.shift)


class Placed(nn.Module):
    """Has a buffer of its own, as networks of language have their positions."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(4, 4), nn.Linear(4, CLASSES)
        self.register_buffer("places", torch.arange(4), persistent=False)

    def forward(self, x):
        return self.last(self.first(x) + self.places)


def test_buffers_of_what_is_around_move_with_them():
    example = torch.randn(6, 4)
    cut = split(Placed(), ["last"], example)
    assert not {name for name in cut.state_dict() if "places" in name}
    assert cut.to("meta")(example.to("meta")).is_meta


@pytest.mark.parametrize("blocks", [2, ["norm"], ["last"]])
def test_to_cut_moves_no_statistics_and_draws_nothing(blocks):
    network, example = Normed(), torch.randn(6, 4)
    before, state = deepcopy(network.state_dict()), torch.get_rng_state()
    split(network, blocks, example, auxiliary=lambda output, classes: nn.Identity())
    torch.testing.assert_close(network.state_dict(), before, rtol=0, atol=0)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("engine", [None, ForwardMode(), FiniteDifferences()])
def test_the_network_keeps_its_parameters(engine):
    """Also those that no segment's submodules hold, in whose place a step puts others."""
    network, packed, labels = words()
    cut = split(network, ["layers.1", "layers.2"], packed, inputs=unpacked)
    parameters = dict(network.named_parameters())
    GradientEstimator(GlobalTarget(), LocalGuess(), WeightPerturbation(), engine=engine).estimate(cut, packed, labels)
    after = dict(network.named_parameters())
    assert after.keys() == parameters.keys()
    assert all(after[name] is parameter for name, parameter in parameters.items())
    assert type(network.positions) is nn.Parameter
