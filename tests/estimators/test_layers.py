"""Weight perturbation for layers of every kind: on the batch by its definition, per sample against a loop."""

import pytest
import torch
from definition import Definition, project
from helpers import assert_all_close, assert_close, body_gradients, build, estimator_of, every_pair
from torch import nn
from torch.nn import functional as F
from transformers.pytorch_utils import Conv1D

from fglight.autodiff.layers.unfolded import Unfolded
from fglight.estimators.spaces import per_sample
from fglight.estimators.spaces.per_sample import SamplePart
from fglight.models import Block

BATCH = 5
pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")


class Scale(nn.Module):
    """A module with a parameter of its own, as none of torch's layers has it."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor([0.5, 2.0]))

    def forward(self, x):
        return torch.tanh(x * self.scale[0]) + self.scale[1] * x.mean(dim=1, keepdim=True)


class Odd(nn.Linear):
    """A subclass that is no linear layer any more."""

    def forward(self, x):
        return super().forward(x) ** 2


class PaddedItself(nn.Conv2d):
    """A convolution that pads as TensorFlow does."""

    def forward(self, x):
        return F.conv2d(F.pad(x, (0, 1, 1, 0)), self.weight, self.bias, self.stride, 0, self.dilation, self.groups)


class WithActivation(nn.BatchNorm2d):
    """A batch norm with an activation at its end."""

    def forward(self, x):
        moving = (self.running_mean, self.running_var)
        return torch.sin(F.batch_norm(x, *moving, self.weight, self.bias, self.training, self.momentum, self.eps))


class OwnLayerNorm(nn.LayerNorm):
    def forward(self, x):
        return F.layer_norm(x, self.normalized_shape, weight=self.weight, bias=self.bias, eps=self.eps)


class OwnGroupNorm(nn.GroupNorm):
    def forward(self, x):
        return torch.sin(F.group_norm(x, self.num_groups, self.weight, self.bias))


class OwnRMSNorm(nn.RMSNorm):
    def forward(self, x):
        return torch.sin(F.rms_norm(x, self.normalized_shape, self.weight))


class Table(nn.Module):
    """A vector for each place, and one token more."""

    def __init__(self):
        super().__init__()
        self.token, self.place = nn.Parameter(torch.empty(1, 1, 8)), nn.Parameter(torch.empty(7, 8))

    def forward(self, x):
        return torch.cat([self.token.expand(len(x), -1, -1), x], 1) + self.place


class Looked(nn.Module):
    """Tokens that are looked up by what is taken in."""

    def __init__(self, **options):
        super().__init__()
        self.table = nn.Embedding(5, 8, **options)

    def forward(self, x):
        return x + torch.tanh(self.table((4 * x[..., 0]).long() % 5))


def frozen_statistics(layer):
    layer.running_mean.normal_()
    layer.running_var.uniform_(0.5, 2)
    return layer.eval()


IMAGE, WIDE, SMALL, TOKENS, FLAT = (4, 7, 6), (2, 9, 9), (8, 3, 3), (6, 8), (8,)
LAYERS = {
    "conv": (IMAGE, lambda: nn.Conv2d(4, 6, 3)),
    "conv with many positions": (WIDE, lambda: nn.Conv2d(2, 3, 3, padding=1)),
    "conv with few positions": (SMALL, lambda: nn.Conv2d(8, 10, 3, 2, 1)),
    "conv without bias": (IMAGE, lambda: nn.Conv2d(4, 6, 3, bias=False)),
    "conv stride": (IMAGE, lambda: nn.Conv2d(4, 6, 3, stride=(2, 1), padding=(0, 1))),
    "conv dilation": (IMAGE, lambda: nn.Conv2d(4, 6, (3, 2), dilation=(1, 2), padding=1)),
    "conv groups": (IMAGE, lambda: nn.Conv2d(4, 6, 3, groups=2, padding=1)),
    "conv groups, few positions": (SMALL, lambda: nn.Conv2d(8, 16, 3, groups=2)),
    "conv depthwise": (IMAGE, lambda: nn.Conv2d(4, 8, 3, groups=4)),
    "conv depthwise, stride": (IMAGE, lambda: nn.Conv2d(4, 4, 3, (2, 1), padding=1, groups=4, bias=False)),
    "conv depthwise, dilation": (IMAGE, lambda: nn.Conv2d(4, 4, (3, 2), dilation=2, padding=2, groups=4)),
    "conv depthwise, circular": (IMAGE, lambda: nn.Conv2d(4, 4, 3, padding=1, padding_mode="circular", groups=4)),
    "conv depthwise, reflect": (IMAGE, lambda: nn.Conv2d(4, 4, 5, 2, padding=2, padding_mode="reflect", groups=4)),
    "conv depthwise, same": (IMAGE, lambda: nn.Conv2d(4, 4, (2, 3), padding="same", groups=4)),
    "conv depthwise, few positions": (SMALL, lambda: nn.Conv2d(8, 8, 3, groups=8)),
    "conv1d depthwise": ((4, 9), lambda: nn.Conv1d(4, 4, 3, groups=4)),
    "conv same": (IMAGE, lambda: nn.Conv2d(4, 6, (2, 3), padding="same")),
    "conv same, dilation": (SMALL, lambda: nn.Conv2d(8, 10, (3, 2), padding="same", dilation=2)),
    "conv valid": (IMAGE, lambda: nn.Conv2d(4, 6, 3, padding="valid")),
    "conv circular": (IMAGE, lambda: nn.Conv2d(4, 6, 3, padding=(1, 2), padding_mode="circular")),
    "conv reflect, same": (IMAGE, lambda: nn.Conv2d(4, 6, (4, 3), padding="same", padding_mode="reflect")),
    "conv 1x1": (IMAGE, lambda: nn.Conv2d(4, 6, 1, stride=2)),
    "conv 1x1 padded": (IMAGE, lambda: nn.Conv2d(4, 6, 1, padding=1)),
    "conv1d": ((4, 9), lambda: nn.Conv1d(4, 6, 3)),
    "transposed conv": (IMAGE, lambda: nn.ConvTranspose2d(4, 6, 3)),
    "linear": (FLAT, lambda: nn.Linear(8, 7)),
    "linear without bias": (FLAT, lambda: nn.Linear(8, 7, bias=False)),
    "linear on tokens": (TOKENS, lambda: nn.Linear(8, 7)),
    "linear on a grid of tokens": ((3, 6, 8), lambda: nn.Linear(8, 7)),
    "linear on few tokens": ((2, 20), lambda: nn.Linear(20, 30)),
    "linear, transposed": (TOKENS, lambda: Conv1D(7, 8)),
    "linear, transposed, on few tokens": ((2, 20), lambda: Conv1D(30, 20)),
    "embedding": (TOKENS, Looked),
    "embedding, padding": (TOKENS, lambda: Looked(padding_idx=1)),
    "odd linear": (FLAT, lambda: Odd(8, 7)),
    "batch norm": (IMAGE, lambda: nn.BatchNorm2d(4)),
    "batch norm, flat": (FLAT, lambda: nn.BatchNorm1d(8)),
    "batch norm, sequence": ((4, 9), lambda: nn.BatchNorm1d(4)),
    "batch norm, evaluating": (IMAGE, lambda: frozen_statistics(nn.BatchNorm2d(4))),
    "batch norm, untracked": (IMAGE, lambda: nn.BatchNorm2d(4, track_running_stats=False).eval()),
    "instance norm": (IMAGE, lambda: nn.InstanceNorm2d(4, affine=True)),
    "layer norm": (TOKENS, lambda: nn.LayerNorm(8)),
    "rms norm": (TOKENS, lambda: nn.RMSNorm(8)),
    "layer norm, flat": (FLAT, lambda: nn.LayerNorm(8)),
    "layer norm, image": (IMAGE, lambda: nn.LayerNorm(IMAGE)),
    "layer norm, rows": (IMAGE, lambda: nn.LayerNorm(IMAGE[1:])),
    "group norm": (IMAGE, lambda: nn.GroupNorm(2, 4)),
    "group norm, flat": (FLAT, lambda: nn.GroupNorm(2, 8)),
    "own conv": (IMAGE, lambda: PaddedItself(4, 6, 3, 2)),
    "own conv, depthwise": (IMAGE, lambda: PaddedItself(4, 4, 3, dilation=(1, 2), groups=4)),
    "own batch norm": (IMAGE, lambda: WithActivation(4)),
    "own batch norm, evaluating": (IMAGE, lambda: frozen_statistics(WithActivation(4))),
    "own layer norm": (TOKENS, lambda: OwnLayerNorm(8)),
    "own group norm": (IMAGE, lambda: OwnGroupNorm(2, 4)),
    "own rms norm": (TOKENS, lambda: OwnRMSNorm(8)),
    "table": (TOKENS, Table),
    "embedding, scaled": (TOKENS, lambda: Looked(scale_grad_by_freq=True)),
    "prelu": (IMAGE, lambda: nn.PReLU(4)),
    "own parameter": (IMAGE, Scale),
}


def network(shape, layer, seed=0):
    """The layer between two others, in the second of three blocks; an in-place ReLU follows it."""
    torch.manual_seed(seed)
    layer = layer().double()
    for parameter in layer.parameters():
        nn.init.normal_(parameter, std=0.5)
    size = layer(torch.zeros(2, *shape, dtype=torch.float64)).flatten(1).shape[1]
    features = torch.Size(shape).numel()
    bodies = [
        nn.Sequential(nn.Linear(7, features), nn.Tanh(), nn.Unflatten(1, shape)),
        nn.Sequential(nn.Tanh(), layer, nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(size, 8)),
        nn.Linear(8, 8),
    ]
    auxes = [nn.Sequential(nn.Flatten(), nn.Linear(n, 4)) for n in (features, 8, 8)]
    blocks = [Block(body, aux).double() for body, aux in zip(bodies, auxes)]
    return blocks, (torch.randn(BATCH, 7, dtype=torch.float64), torch.arange(BATCH) % 4)


class Loop:
    """Per-sample targets and guesses of every parameter of blocks 0..J-2, one masked cotangent at a time."""

    def __init__(self, blocks, images, labels):
        self.outputs = {}  # of each layer, by the block's number and the parameter

        def keep(layer, _, output):
            self.outputs[layer] = output
            return output.clone()  # what an in-place layer overwrites

        owners = [
            m
            for block in blocks[:-1]
            for m in block.body.modules()
            if next(m.parameters(recurse=False), None) is not None
        ]
        hooks = [layer.register_forward_hook(keep) for layer in owners]
        hidden, local = images, []
        for block in blocks:
            hidden = block.body(hidden)
            local.append(block.loss(hidden, labels)[0])
        for hook in hooks:
            hook.remove()
        self.pairs = []  # for each block and parameter: targets and guesses, each (batch, *parameter.shape)
        for block, loss in zip(blocks[:-1], local):
            owner = {p: m for m in block.body.modules() for p in m.parameters(recurse=False)}
            self.pairs.append(
                [
                    (self.per_sample(owner[p], p, local[-1]), self.per_sample(owner[p], p, loss))
                    for p in block.body.parameters()
                ]
            )

    def per_sample(self, layer, parameter, loss):
        output = self.outputs[layer]
        (cotangent,) = torch.autograd.grad(loss, output, retain_graph=True)
        rows = []
        for i in range(BATCH):
            alone = torch.zeros_like(cotangent)
            alone[i] = cotangent[i]
            rows += torch.autograd.grad(output, parameter, alone, retain_graph=True)
        return torch.stack(rows)

    def estimates(self):
        return [[estimate(t.flatten(1), g.flatten(1)).view_as(t[0]) for t, g in part] for part in self.pairs]

    def cosines(self):
        cosine = [
            torch.stack([F.cosine_similarity(t.flatten(1), g.flatten(1), eps=1e-300).mean() for t, g in part])
            for part in self.pairs
        ]
        return torch.stack([part.mean() for part in cosine])


def estimate(t, g):
    return sum(project(ti, gi) for ti, gi in zip(t, g))


def by_sample():
    return estimator_of(perturb="weight_per_sample")


@pytest.mark.parametrize("name", LAYERS)
def test_estimates_are_those_of_a_loop_over_samples(name):
    blocks, batch = network(*LAYERS[name])
    loop = Loop(blocks, *batch)
    step = by_sample().estimate(blocks, *batch, cosine=True)
    assert_all_close(body_gradients(blocks), loop.estimates())
    assert_close(step.cosine, loop.cosines())


SLOW = ("transposed conv", "table", "embedding, scaled", "prelu", "own parameter")
"""For these there is no formula, of all or some parameters."""


@pytest.mark.parametrize("name", LAYERS)
def test_which_are_fast(name):
    blocks, (images, _) = network(*LAYERS[name])
    paths = {check.path for check in by_sample().check(blocks, images)}
    assert paths == ({"fast", "slow"} if name in SLOW else {"fast"})


@pytest.mark.parametrize("name", ["table", "prelu", "transposed conv"])
def test_without_a_formula_one_operation_is_differentiated_for_each_sample(name, monkeypatch):
    """And neither the layer nor the block."""
    blocks, batch = network(*LAYERS[name])
    layer = blocks[1].body[1]
    names = []
    original = SamplePart._by_loop

    def noted(part, cotangent):
        names.append(part.call.output.node.name())
        return original(part, cotangent)

    monkeypatch.setattr(SamplePart, "_by_loop", noted)
    by_sample().estimate(blocks, *batch)
    expected = {
        "table": {"ExpandBackward0", "AddBackward0"},
        "prelu": {"PreluKernelBackward0"},
        "transposed conv": {"ConvolutionBackward0"},
    }
    assert set(names) == expected[name]
    assert len(names) == 2 * len([*layer.parameters()])  # of target and guess


@pytest.fixture
def sums_over_samples(monkeypatch):
    """The per-sample gradients that were computed, each summed over the batch."""
    sums = []
    original = SamplePart._gradients

    def record(*arguments):
        gradients = original(*arguments)
        sums.extend(gradient.sum(0) for gradient in gradients)
        return gradients

    monkeypatch.setattr(SamplePart, "_gradients", record)
    return sums


@pytest.mark.parametrize("name", LAYERS)
def test_targets_of_the_samples_sum_to_the_batchs_gradient(name, sums_over_samples):
    """With a random guess the only per-sample gradients are the targets."""
    blocks, batch = network(*LAYERS[name])
    estimator_of(guess="exact").estimate(blocks, *batch)
    exact = body_gradients(blocks)
    estimator = estimator_of(guess="gaussian", perturb="weight_per_sample")
    estimator.estimate(blocks, *batch)
    assert_all_close([sums_over_samples], [[gradient for part in exact for gradient in part]])


@pytest.fixture
def grams(monkeypatch):
    """How often the Gram matrices of a layer are taken."""
    calls = []
    original = Unfolded.inner_products

    def noted(kind, call, *given, **how):
        calls.append(call)
        return original(kind, call, *given, **how)

    monkeypatch.setattr(Unfolded, "inner_products", noted)
    return calls


@pytest.mark.parametrize("chunk", [1, 700, None])
@pytest.mark.parametrize(
    ("name", "gram"),
    [
        ("conv with few positions", True),
        ("conv groups, few positions", True),
        ("conv same, dilation", None),
        ("linear on few tokens", True),
        ("conv with many positions", False),
        ("conv depthwise", False),
        ("batch norm", False),
        ("own parameter", False),
    ],
)
def test_both_ways_to_the_inner_products_and_any_chunk(name, gram, chunk, grams, monkeypatch):
    if chunk:
        monkeypatch.setattr(per_sample, "CHUNK", chunk)
    blocks, batch = network(*LAYERS[name])
    loop = Loop(blocks, *batch)
    step = by_sample().estimate(blocks, *batch, cosine=True)
    assert_all_close(body_gradients(blocks), loop.estimates())
    assert_close(step.cosine, loop.cosines())
    if gram is not None:
        layer = blocks[1].body[1]
        assert any(call.layer is layer for call in grams) == gram
        if gram and chunk == 1:
            assert sum(call.layer is layer for call in grams) == BATCH


def test_both_ways_are_taken_in_the_papers_network(grams):
    model, estimator, batch = build({"model.width": 0.25}, perturb="weight_per_sample", size=16)
    estimator.estimate(model, *batch)
    convolutions = [m for block in model.blocks[:-1] for m in block.body.modules() if isinstance(m, nn.Conv2d)]
    assert 0 < len({id(call.layer) for call in grams}) < len(convolutions)


@pytest.mark.parametrize("chunk", [1, None])
def test_random_directions_are_one_for_each_sample(chunk, monkeypatch):
    if chunk:
        monkeypatch.setattr(per_sample, "CHUNK", chunk)
    blocks, batch = network(*LAYERS["conv with few positions"])
    targets = [t for part in Loop(blocks, *batch).pairs for t, _ in part]
    estimator = estimator_of(guess="gaussian", perturb="weight_per_sample")
    drawn = []
    sample = estimator.guess.sample
    estimator.guess.sample = lambda like: drawn.append(sample(like)) or drawn[-1]
    estimator.estimate(blocks, *batch)
    directions, rest = [], list(drawn)
    for _ in targets:
        parts = []
        while sum(len(part) for part in parts) < BATCH:
            parts.append(rest.pop(0))
        directions.append(torch.cat(parts))
        if len(parts) > 1:  # too many to be kept: they are drawn again, and are the same
            assert torch.equal(torch.cat([rest.pop(0) for _ in parts]), directions[-1])
    assert not rest
    expected = [
        sum((ti * xi).sum() * xi for ti, xi in zip(target, direction)) for target, direction in zip(targets, directions)
    ]
    assert_all_close([[gradient for part in body_gradients(blocks) for gradient in part]], [expected])


class Around(nn.Module):
    """A body that is one layer, used in a way of its own."""

    def __init__(self, layer, use):
        super().__init__()
        self.layer, self.use = layer, use

    def forward(self, x):
        return torch.tanh(self.use(self.layer, x))


USES = {
    "twice": lambda: Around(nn.Linear(8, 8), lambda layer, x: layer(layer(x))),
    "by keyword": lambda: Around(nn.Linear(8, 8), lambda layer, x: layer(input=x)),
    "two inputs": lambda: Around(nn.Bilinear(8, 8, 8), lambda layer, x: layer(x, torch.sin(x))),
    "two outputs": lambda: Around(nn.GRU(8, 8, batch_first=True), lambda layer, x: layer(x[:, None])[0][:, 0]),
    "attention": lambda: Around(
        nn.MultiheadAttention(4, 2, batch_first=True),
        lambda layer, x: layer(*[x.unflatten(1, (2, 4))] * 3)[0].flatten(1),
    ),
    "weights only": lambda: Around(nn.Linear(8, 8), lambda layer, x: x @ layer.weight + layer.bias),
    "parametrized": lambda: Around(nn.utils.parametrizations.weight_norm(nn.Linear(8, 8)), lambda layer, x: layer(x)),
}


def odd_blocks(name):
    torch.manual_seed(0)
    bodies = [USES[name](), nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), nn.Tanh()), nn.Linear(8, 8)]
    blocks = [Block(body, nn.Linear(8, 4)).double() for body in bodies]
    return blocks, (torch.randn(BATCH, 8, dtype=torch.float64), torch.arange(BATCH) % 4)


@pytest.mark.parametrize("name", USES)
def test_where_no_layer_stands_for_a_parameter_the_block_does(name):
    """What the cotangent of the block's output contributes at one sample."""
    blocks, batch = odd_blocks(name)
    definition = Definition(blocks, *batch)
    targets, guesses = [], []
    for loss, rows in (("global", targets), ("local", guesses)):
        for cotangent in torch.diag_embed(definition.activity(loss, 0).T).permute(1, 2, 0):  # one sample's alone
            rows.append(definition.vjp(0, cotangent))
    expected = [
        estimate(torch.stack(t).flatten(1), torch.stack(g).flatten(1)).view_as(t[0])
        for t, g in zip(zip(*targets), zip(*guesses))
    ]
    step = by_sample().estimate(blocks, *batch, cosine=True)
    assert_all_close(body_gradients(blocks)[:1], [expected])
    assert step.cosine.isfinite().all()


@pytest.mark.parametrize("name", USES)
def test_their_targets_sum_to_the_batchs_gradient_too(name, sums_over_samples):
    blocks, batch = odd_blocks(name)
    estimator_of(guess="exact").estimate(blocks, *batch)
    exact = body_gradients(blocks)
    estimator = estimator_of(guess="gaussian", perturb="weight_per_sample")
    estimator.estimate(blocks, *batch)
    assert_all_close([sums_over_samples], [[gradient for part in exact for gradient in part]])


def test_no_hook_stays_behind():
    blocks, (images, labels) = network(*LAYERS["conv"])
    by_sample().estimate(blocks, images, labels)
    with pytest.raises(RuntimeError):  # in mid-network: the images do not fit
        by_sample().estimate(blocks, images[:, :3], labels)
    assert not any(module._forward_hooks for block in blocks for module in block.modules())


@every_pair(name=[*LAYERS, *USES], granularity=["tensor", "network"], cosine=[False, True])
def test_projections_of_the_batchs_gradient_by_definition(name, granularity, cosine):
    """Whichever way the inner products are taken."""
    blocks, batch = network(*LAYERS[name]) if name in LAYERS else odd_blocks(name)
    definition = Definition(blocks, *batch)
    estimator = estimator_of({"perturb.granularity": granularity}, perturb="weight")
    estimator.estimate(blocks, *batch, cosine=cosine)
    assert_all_close(body_gradients(blocks), definition.estimates("global", "weight", granularity))
