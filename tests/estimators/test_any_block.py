"""Blocks that hold what users' blocks hold, against the definitions in plain autograd."""

from copy import deepcopy
from types import MethodType
from unittest.mock import patch

import pytest
import torch
import torch.nn.functional as F
from definition import Definition
from helpers import CHECKPOINTS_HAVE_TANGENTS, assert_all_close, assert_close, body_gradients, every_pair
from torch import nn
from torch.utils.checkpoint import checkpoint

from fglight.errors import BlockError
from fglight.estimators import (
    ActivityPerturbation,
    ActivitySpanPerturbation,
    ExactGuess,
    FixedNTKGuess,
    ForwardMode,
    FrozenGuess,
    GaussianGuess,
    GlobalTarget,
    GradientEstimator,
    IntermediateTarget,
    LocalGuess,
    LocalTarget,
    NTKGuess,
    RandomGuess,
    ReverseMode,
    WeightPerSamplePerturbation,
    WeightPerturbation,
    layers,
)
from fglight.models import Block, BlockNetwork

SAMPLES, TOKENS, WIDTH, CLASSES = 5, 3, 8, 4
ENGINES = (ReverseMode, ForwardMode)


class Body(nn.Module):
    """A body of one or two layers and a function of them and the input."""

    def __init__(self, function, **layers):
        super().__init__()
        self.function = function
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, x):
        return self.function(self, x)


def linear(**options):
    return nn.Linear(WIDTH, WIDTH, **options)


def conv(channels=2, **options):
    return nn.Conv2d(channels, channels, 3, padding=1, **options)


# Bodies that map (samples, tokens, width) or (samples, 2, 4, 4) to the same.


def tied_by_a_function():
    return Body(lambda s, x: F.linear(torch.tanh(s.encode(x)), s.encode.weight.t()), encode=linear())


def tied_by_two_layers():
    body = Body(lambda s, x: s.second(torch.tanh(s.first(x))), first=linear(), second=linear())
    body.second.weight = body.first.weight
    return body


def tied_convolution():
    return Body(lambda s, x: F.conv_transpose2d(torch.tanh(s.conv(x)), s.conv.weight, padding=1), conv=conv())


def scaled_by_the_scale_of_a_norm():
    body = Body(lambda s, x: s.norm.weight * torch.tanh(s.norm(x)), norm=nn.LayerNorm(WIDTH))
    nn.init.uniform_(body.norm.weight)
    return body


def layer_used_by_a_function_alone():
    return Body(lambda s, x: F.linear(x, s.layer.weight) + s.layer(x).detach(), layer=linear())


def layer_called_without_gradient():
    def forward(self, x):
        with torch.no_grad():
            size = self.layer(x)
        return F.linear(x, self.layer.weight) * torch.sigmoid(size)

    return Body(forward, layer=linear())


def transformer_with_time_first():
    layer = nn.TransformerEncoderLayer(WIDTH, 2, 16, dropout=0)
    return Body(lambda s, x: s.layer(x.transpose(0, 1)).transpose(0, 1), layer=layer)


def linear_with_time_first():
    return Body(lambda s, x: torch.tanh(s.layer(x.transpose(0, 1))).transpose(0, 1), layer=linear())


def recurrent_with_time_first():
    return Body(lambda s, x: s.layer(x.transpose(0, 1))[0].transpose(0, 1), layer=nn.GRU(WIDTH, WIDTH))


def windows_in_the_batch():
    layers = nn.Sequential(linear(), nn.LayerNorm(WIDTH), nn.Tanh())
    return Body(lambda s, x: s.layers(x.reshape(-1, 1, WIDTH)).view_as(x), layers=layers)


def tokens_in_the_batch():
    return Body(lambda s, x: s.layer(x.flatten(0, 1)).tanh().view_as(x), layer=linear())


def positions_that_broadcast():
    places, embedding = torch.arange(TOKENS), nn.Embedding(TOKENS, WIDTH)
    return Body(lambda s, x: torch.tanh(s.layer(x) + s.place(places)), layer=linear(), place=embedding)


def parameter_of_its_own():
    body = Body(lambda s, x: torch.tanh(s.layer(x) * s.scale), layer=linear())
    body.scale = nn.Parameter(torch.rand(WIDTH))
    return body


def subclass_with_another_forward():
    class Doubled(nn.Linear):
        def forward(self, x):
            return super().forward(2 * torch.tanh(x))

    return Body(lambda s, x: s.layer(x), layer=Doubled(WIDTH, WIDTH))


def norm_subclass_with_another_forward():
    class Twice(nn.LayerNorm):
        def forward(self, x):
            return 2 * super().forward(x)

    class TwiceBatch(nn.BatchNorm1d):
        def forward(self, x):
            return 2 * super().forward(x)

    body = Body(lambda s, x: s.other(s.norm(x)).tanh(), norm=Twice(WIDTH), other=TwiceBatch(TOKENS))
    body.other.eval()
    return body


def layer_with_a_hook():
    layer = linear()
    layer.register_forward_hook(lambda module, inputs, output: torch.tanh(3 * output))
    return Body(lambda s, x: s.layer(x), layer=layer)


def layer_with_a_patched_forward():
    layer = linear()
    layer.forward = MethodType(lambda s, x: F.linear(torch.tanh(2 * x), s.weight, s.bias), layer)
    return Body(lambda s, x: s.layer(x), layer=layer)


def weight_norm():
    return Body(lambda s, x: torch.tanh(s.layer(x)), layer=nn.utils.parametrizations.weight_norm(linear()))


def convolution_without_a_batch():
    return Body(lambda s, x: torch.stack([torch.tanh(s.conv(image)) for image in x]), conv=conv())


def instance_norm():
    return Body(
        lambda s, x: torch.tanh(s.norm(s.conv(x))),
        conv=conv(bias=False),
        norm=nn.InstanceNorm2d(2, affine=True, track_running_stats=True),
    )


def old_spectral_norm():
    return Body(lambda s, x: torch.tanh(s.layer(x)), layer=nn.utils.spectral_norm(linear()))


def spectral_norm():
    return Body(lambda s, x: torch.tanh(s.layer(x)), layer=nn.utils.parametrizations.spectral_norm(linear()))


def counted(in_place=True):
    def forward(self, x):
        if in_place:
            self.calls += 1
        else:
            self.calls = self.calls + 1
        return torch.tanh(self.layer(x)) * (1 + self.calls)

    body = Body(forward, layer=linear())
    body.register_buffer("calls", torch.zeros((), dtype=torch.int64))
    return body


def counted_by_another_buffer():
    return counted(in_place=False)


def running_mean_of_its_own():
    def forward(self, x):
        y = self.layer(x)
        with torch.no_grad():
            self.mean.lerp_(y.mean((0, 1)), 0.1)
        return torch.tanh(y) * (1 + self.mean)

    body = Body(forward, layer=linear())
    body.register_buffer("mean", torch.zeros(WIDTH))
    return body


def checkpointed():
    return Body(lambda s, x: checkpoint(lambda y: torch.tanh(s.layer(y)), x, use_reentrant=False), layer=linear())


def checkpointed_spectral_norm():
    layer = nn.utils.spectral_norm(linear())
    return Body(lambda s, x: checkpoint(lambda y: torch.tanh(s.layer(y)), x, use_reentrant=False), layer=layer)


CHECKPOINTED = (checkpointed, checkpointed_spectral_norm)


def without_gradient():
    def forward(self, x):
        with torch.no_grad():
            gate = torch.sigmoid(self.layer(x))
        return gate * self.layer(x)

    return Body(forward, layer=linear())


def dropout():
    return nn.Sequential(linear(), nn.Dropout(0.5))


def reentrant():
    return Body(lambda s, x: checkpoint(s.layer, x, use_reentrant=True), layer=linear())


BODIES = [
    tied_by_a_function,
    tied_by_two_layers,
    tied_convolution,
    scaled_by_the_scale_of_a_norm,
    layer_used_by_a_function_alone,
    layer_called_without_gradient,
    transformer_with_time_first,
    linear_with_time_first,
    recurrent_with_time_first,
    windows_in_the_batch,
    tokens_in_the_batch,
    positions_that_broadcast,
    parameter_of_its_own,
    subclass_with_another_forward,
    norm_subclass_with_another_forward,
    layer_with_a_hook,
    layer_with_a_patched_forward,
    weight_norm,
    convolution_without_a_batch,
    instance_norm,
    old_spectral_norm,
    spectral_norm,
    counted,
    counted_by_another_buffer,
    running_mean_of_its_own,
    checkpointed,
    checkpointed_spectral_norm,
    without_gradient,
]
"""No body here couples samples, so that a sample's gradient is what its row of the output's cotangent gives."""

IMAGES = (tied_convolution, convolution_without_a_batch, instance_norm)


def network(make):
    """Two blocks of a body and one of a linear layer, with a batch: ``(blocks, inputs, labels)``."""
    torch.manual_seed(0)
    shape = (2, 4, 4) if make in IMAGES else (TOKENS, WIDTH)
    size = torch.Size(shape).numel()

    def aux():
        return nn.Sequential(nn.Flatten(), nn.Linear(size, CLASSES))

    blocks = [Block(make(), aux()), Block(make(), aux()), Block(nn.Flatten(), nn.Linear(size, CLASSES))]
    inputs = torch.randn(SAMPLES, *shape, dtype=torch.float64)
    return [block.double() for block in blocks], inputs, torch.arange(SAMPLES) % CLASSES


class Wave(RandomGuess):
    """A direction that is the same each time it is drawn."""

    def sample(self, like):
        return torch.cos(torch.arange(like.numel(), dtype=like.dtype) ** 2).view(like.shape)


GUESSES = {"local": (LocalGuess, "global", GlobalTarget), "random": (Wave, "intermediate", IntermediateTarget)}
WAYS = {
    "activity": ActivityPerturbation,
    "activity_span": ActivitySpanPerturbation,
    "tensor": lambda: WeightPerturbation("tensor"),
    "network": lambda: WeightPerturbation("network"),
    "filter": lambda: WeightPerturbation("filter"),
    "weight_per_sample": WeightPerSamplePerturbation,
}


PAIRS = [(guess, way) for guess in GUESSES for way in WAYS if (guess, way) != ("random", "activity_span")]


def estimate_by_definition(blocks, inputs, labels, target, guess, way):
    """The estimates of all blocks but the last."""
    perturb = way if way.startswith("activity") or way == "weight_per_sample" else "weight"
    drawn = {} if guess == "local" else {"draw": lambda like: [Wave().sample(like)], "coefficient": "inner"}
    return Definition(blocks, inputs, labels).estimates(target, perturb, way, **drawn)


def buffers_after_a_pass(blocks, inputs, labels):
    blocks = deepcopy(blocks)
    for block in blocks:
        inputs = block.body(inputs)
    return [buffer for block in blocks for buffer in block.body.buffers()]


def refused(make, engine, way):
    """What a step says of a body that it cannot run; None of all others."""
    if engine is ForwardMode and make is weight_norm and not way.startswith("activity"):
        return r"layer\.parametrizations\.weight\.0 of block 0, a _WeightNorm .*engine=rev"
    if engine is ForwardMode and make in CHECKPOINTED and not CHECKPOINTS_HAVE_TANGENTS:
        return "engine=forward cannot differentiate the body of block 0, a Body .*engine=reverse"
    return None


@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning", "ignore:.*nested tensors.*:UserWarning")
@every_pair(make=BODIES, engine=ENGINES, guess=GUESSES, way=WAYS)
def test_estimates_and_buffers_are_those_of_the_definition(make, engine, guess, way):
    if way == "activity_span":
        guess = "local"
    # A checkpoint runs a body again in every backward pass, where power iterations would go on.
    plain = {checkpointed_spectral_norm: old_spectral_norm}.get(make, make)
    kind, target, aims = GUESSES[guess]
    expected = estimate_by_definition(*network(plain), target, guess, way)
    blocks, inputs, labels = network(make)
    moved = buffers_after_a_pass(blocks, inputs, labels)
    estimator = GradientEstimator(aims(), kind(), WAYS[way](), engine=engine())
    if said := refused(make, engine, way):
        with pytest.raises(ValueError, match=said):
            estimator.estimate(blocks, inputs, labels)
        return
    estimator.estimate(blocks, inputs, labels)
    assert_all_close(body_gradients(blocks), expected, 1e-8)
    for buffer, after in zip((b for block in blocks for b in block.body.buffers()), moved):
        assert_close(buffer.double(), after.double())


# Buffers, in bodies and auxiliary networks that move all kinds of them.


class Restless(nn.Module):
    """Calls its layers, and counts how often."""

    def __init__(self, *layers):
        super().__init__()
        self.layers = nn.Sequential(*layers)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x):
        self.calls += 1
        return self.layers(x) * (1 + self.calls)


def restless():
    """Two blocks and a last one, and a batch; batch norm couples the samples."""
    torch.manual_seed(0)
    blocks = []
    for _ in range(3):
        norms = nn.BatchNorm1d(TOKENS, momentum=None), nn.InstanceNorm1d(TOKENS, track_running_stats=True)
        body = Restless(linear(), norms[0], nn.utils.spectral_norm(linear()), norms[1], nn.BatchNorm1d(TOKENS))
        layers = nn.Flatten(), nn.Linear(TOKENS * WIDTH, CLASSES), nn.BatchNorm1d(CLASSES, momentum=None)
        blocks.append(Block(body, Restless(*layers, nn.utils.spectral_norm(nn.Linear(CLASSES, CLASSES)))).double())
    return blocks, torch.randn(SAMPLES, TOKENS, WIDTH, dtype=torch.float64), torch.arange(SAMPLES) % CLASSES


ALL_GUESSES = {
    "exact": ExactGuess,
    "local": LocalGuess,
    "ntk": NTKGuess,
    "several ntk": lambda: NTKGuess(2),
    "fixed_ntk": FixedNTKGuess,
    "gaussian": GaussianGuess,
    "several gaussian": lambda: GaussianGuess(2),
}
ALL_WAYS = {**WAYS, "channel": lambda: ActivityPerturbation("channel"), "block": lambda: WeightPerturbation("block")}


@every_pair(engine=ENGINES, guess=ALL_GUESSES, aims=[GlobalTarget, LocalTarget, IntermediateTarget], way=ALL_WAYS)
def test_every_buffer_is_where_one_forward_pass_leaves_it(engine, guess, aims, way):
    if guess == "exact":
        engine = ReverseMode
    blocks, inputs, labels = restless()
    estimator = GradientEstimator(aims(), ALL_GUESSES[guess](), ALL_WAYS[way](), engine=engine())
    estimator.guess.prepare = lambda blocks: None  # redrawn auxiliaries are compared with themselves
    plain, hidden = deepcopy(blocks), inputs
    for block in plain:
        hidden = block.body(hidden)
        if estimator.evaluates_auxiliaries or block is plain[-1]:
            block.aux(hidden)
    parameters = [p.detach().clone() for block in blocks for p in block.parameters()]
    estimator.estimate(blocks, inputs, labels)
    assert all(torch.equal(*pair) for pair in zip((p for block in blocks for p in block.parameters()), parameters))
    for j, (block, other) in enumerate(zip(blocks, plain)):
        for (name, buffer), right in zip(block.named_buffers(), other.buffers()):
            assert_close(buffer.double(), right.double(), 1e-9, f"block {j}, {name}")


# Refused in one line.


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
    assert said.startswith("engine=reverse cannot differentiate 1.1 of block 1, a Calls (there is none): accepted are")
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
    with pytest.raises(ValueError, match=r"engine=forward cannot move layer\.weight .*: accepted is engine=reverse"):
        estimator.estimate(blocks, inputs, labels)


def test_blocks_that_share_parameters_are_refused():
    first, second, third = (Block(linear(), linear()) for _ in range(3))
    estimator = GradientEstimator(GlobalTarget(), LocalGuess(), WeightPerturbation())
    batch = torch.randn(SAMPLES, WIDTH), torch.arange(SAMPLES)
    second.body.weight = first.body.weight
    with pytest.raises(ValueError, match="weight of block 1 is also a parameter of block 0: accepted are bodies"):
        estimator.estimate([first, second, third], *batch)
    second.body.weight = second.aux.weight
    with pytest.raises(ValueError, match="weight of block 1 is also a parameter of block 1: accepted are bodies"):
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


# What ``check`` tells beforehand.


def checked(make, engine, way):
    """What ``check`` says of layers, by path, whether a step refused, and which layers it looped over samples for."""
    blocks, inputs, labels = network(make)
    estimator = GradientEstimator(GlobalTarget(), LocalGuess(), WAYS[way](), engine=engine())
    before = deepcopy([*blocks[0].state_dict().values()]), torch.get_rng_state()
    found = {}
    for layer in estimator.check(blocks, inputs):
        found.setdefault(layer.path, set()).add((layer.block, layer.layer))
        assert bool(layer.why) == (layer.path != "fast")
    assert all(map(torch.equal, before[0], blocks[0].state_dict().values()))
    assert torch.equal(before[1], torch.get_rng_state())
    owners = {p: (j, name.rpartition(".")[0]) for j, b in enumerate(blocks) for name, p in b.body.named_parameters()}
    looped = set()
    loop = layers._by_loop

    def noted(call, parameter, cotangent):
        looped.add(owners[parameter])
        return loop(call, parameter, cotangent)

    with patch.object(layers, "_by_loop", noted):
        try:
            estimator.estimate(blocks, inputs, labels)
        except BlockError:
            return found, True, looped
    return found, False, looped


@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning", "ignore:.*nested tensors.*:UserWarning")
@every_pair(make=[*BODIES, dropout, reentrant], engine=ENGINES, way=["activity", "tensor", "weight_per_sample"])
def test_check_tells_what_a_step_does(make, engine, way):
    found, refused, looped = checked(make, engine, way)
    assert ("refused" in found) == refused
    if not refused and way == "weight_per_sample" and engine is ReverseMode:
        assert found.get("slow", set()) == looped
    if way == "activity":
        assert "slow" not in found


def test_check_of_frozen_blocks_looks_at_the_last_alone():
    blocks, inputs, _ = network(tied_by_a_function)
    size = TOKENS * WIDTH
    blocks[-1].body = nn.Sequential(nn.Flatten(), nn.Linear(size, size)).double()
    found = GradientEstimator(GlobalTarget(), FrozenGuess(), WeightPerSamplePerturbation()).check(blocks, inputs)
    assert [(layer.block, layer.path) for layer in found] == [(2, "fast")]


@pytest.mark.parametrize(
    ("settings", "slow"),
    [
        ({}, True),
        ({"engine": ForwardMode()}, False),
        ({"perturbation": WeightPerturbation(coefficient="one")}, False),
        ({"perturbation": WeightPerSamplePerturbation(coefficient="one")}, False),
        ({"guess": GaussianGuess(2)}, True),
    ],
)
def test_check_calls_a_tied_weight_slow_where_its_target_is_computed(settings, slow):
    parts = {"target": GlobalTarget(), "guess": LocalGuess(), "perturbation": WeightPerturbation(), **settings}
    blocks, inputs, _ = network(tied_by_a_function)
    assert any(layer.path == "slow" for layer in GradientEstimator(**parts).check(blocks, inputs)) == slow
