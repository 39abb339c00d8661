"""Networks that are not ours, cut into blocks: torchvision's transformer and ConvNeXt, and a plain chain of layers."""

import own_blocks
import pytest
import regression
import torch
import vision_transformer
from definition import Definition, project
from helpers import (
    ALL_PERTURBATIONS,
    assert_all_close,
    assert_close,
    assert_same_gradients,
    body_gradients,
    estimator_of,
    every_pair,
    gradients,
    snapshot,
)
from torch import nn
from torch.nn import functional as F
from torchvision.models import ConvNeXt, VisionTransformer
from torchvision.models.convnext import CNBlockConfig

from fglight.estimators import (
    ActivityPerturbation,
    ForwardMode,
    GradientEstimator,
    LocalGuess,
    LocalTarget,
    ReverseMode,
    WeightPerSamplePerturbation,
    WeightPerturbation,
)
from fglight.models import PooledAuxiliary, split

BATCH, CLASSES = 5, 4


def vit():
    network = VisionTransformer(8, 4, num_layers=3, num_heads=2, hidden_dim=8, mlp_dim=12, num_classes=CLASSES)
    return network, vision_transformer.in_blocks


def convnext():
    settings = [CNBlockConfig(4, 6, 1), CNBlockConfig(6, None, 1)]
    network = ConvNeXt(settings, stochastic_depth_prob=0, layer_scale=0.5, num_classes=CLASSES)
    return network, lambda net, example: split([*net.features, net.avgpool, net.classifier], 3, example)


def sequential(normalization=lambda channels: nn.GroupNorm(2, channels)):
    network = nn.Sequential(
        *(nn.Conv2d(3, 4, 3, padding=1, bias=False), normalization(4), nn.ReLU(inplace=True)),
        *(nn.Conv2d(4, 6, 3, 2, 1), nn.Tanh(), nn.AdaptiveAvgPool2d(2), nn.Flatten()),
        *(nn.Linear(24, 8), nn.LayerNorm(8), nn.GELU()),
        nn.Linear(8, CLASSES),
    )
    return network, lambda net, example: split(net, [3, 7], example)


NETWORKS = {"vit": vit, "convnext": convnext, "sequential": sequential}


def make(name, seed=0, **options):
    """A network in double precision, the same one in blocks, and a batch."""
    torch.manual_seed(seed)
    network, cut = NETWORKS[name](**options)
    network.double()
    for parameter in network.parameters():  # torchvision's classifiers start at zero, where targets vanish
        nn.init.normal_(parameter, std=0.4)
    images = torch.randn(BATCH, 3, 8, 8, dtype=torch.float64)
    return network, cut(network, images[:2]), (images, torch.arange(BATCH) % CLASSES)


def per_sample_estimates(blocks, images, labels):
    """The sum over samples of the projections of t_i on g_i, for every parameter of blocks 0..J-2.

    t_i and g_i come from running the blocks on one sample, which is all there is to it without batch norm.
    """
    estimates = [[torch.zeros_like(p) for p in block.body.parameters()] for block in blocks.blocks[:-1]]
    for i in range(len(images)):
        alone = Definition(blocks, images[i : i + 1], labels[i : i + 1])
        for j, block in enumerate(estimates):
            for total, t, g in zip(block, alone.weight("global", j), alone.weight("local", j)):
                t, g = t / len(images), g / len(images)
                total += project(t, g)
    return estimates


def by_definition(perturb, granularity, definition, blocks, batch):
    if perturb == "weight_per_sample":
        return per_sample_estimates(blocks, *batch)
    return definition.estimates("global", perturb, granularity)


def estimator(perturb, granularity, **choices):
    return estimator_of({"perturb.granularity": granularity} if granularity else {}, perturb=perturb, **choices)


@pytest.mark.parametrize("name", NETWORKS)
def test_exact_gradients_are_autograds_on_the_network_as_it_was(name):
    network, blocks, (images, labels) = make(name)
    assert {id(p) for p in network.parameters()} <= {id(p) for p in blocks.parameters()}
    assert_close(blocks(images), network(images))
    estimator_of(guess="exact").estimate(blocks, images, labels)
    expected = torch.autograd.grad(F.cross_entropy(network(images), labels), list(network.parameters()))
    for (parameter, p), gradient in zip(network.named_parameters(), expected):
        assert_close(p.grad, gradient, name=parameter)


@pytest.mark.parametrize(("perturb", "granularity"), ALL_PERTURBATIONS)
@pytest.mark.parametrize("name", NETWORKS)
def test_estimates_by_definition(name, perturb, granularity):
    _, blocks, batch = make(name)
    definition = Definition(blocks, *batch)
    step = estimator(perturb, granularity).estimate(blocks, *batch)
    assert_close(step.loss, definition.losses[-1].detach())
    # Attention's kernels round differently when they run on one sample.
    assert_all_close(
        body_gradients(blocks), by_definition(perturb, granularity, definition, blocks, batch), tolerance=1e-8
    )


@every_pair(name=NETWORKS, guess=["local", "gaussian"], way=ALL_PERTURBATIONS, training=[True, False])
def test_both_engines_agree(name, guess, way, training):
    perturb, granularity = way
    _, blocks, batch = make(name)
    blocks.train(training)  # attention has other kernels for evaluation
    results = []
    for engine in ("reverse", "forward"):
        torch.manual_seed(1)
        estimator(perturb, granularity, guess=guess, engine=engine).estimate(blocks, *batch)
        results.append(gradients(blocks))
    assert_same_gradients(results[1], results[0], tolerance=1e-8)


@pytest.mark.parametrize("granularity", ["tensor", "block", "network"])
def test_both_engines_agree_on_weights_with_batch_norm(granularity):
    results = []
    for engine in ("reverse", "forward"):
        _, blocks, batch = make("sequential", normalization=nn.BatchNorm2d)
        estimator("weight", granularity, engine=engine).estimate(blocks, *batch)
        results.append(gradients(blocks))
    assert_same_gradients(results[1], results[0], tolerance=1e-8)


@every_pair(engine=["reverse", "forward"], way=ALL_PERTURBATIONS, name=NETWORKS)
def test_training_lowers_the_networks_loss(engine, way, name):
    perturb, granularity = way
    network, blocks, (images, labels) = make(name)
    chosen = estimator(perturb, granularity, engine=engine)
    optimizer = torch.optim.SGD(chosen.trained_parameters(blocks), lr=0.02)
    losses = []
    for _ in range(6):
        losses.append(chosen.estimate(blocks, images, labels).loss)
        optimizer.step()
    assert F.cross_entropy(network(images), labels) < losses[-1] < losses[0]


@pytest.mark.parametrize(
    ("module", "setting"),
    [
        (ConvNeXt([CNBlockConfig(4, None, 2)], stochastic_depth_prob=0.5).features[1], "p=0.5"),
        (nn.MultiheadAttention(4, 2, dropout=0.1), "dropout=0.1"),
    ],
)
def test_forward_mode_refuses_layers_that_draw_random_numbers(module, setting):
    _, blocks, batch = make("convnext")
    blocks.blocks[1].body.append(module)
    with pytest.raises(ValueError, match=setting):
        estimator_of(guess="gaussian", engine="forward").estimate(blocks, *batch)


def layers():
    return [nn.Flatten(), nn.Linear(12, 8), nn.BatchNorm1d(8), nn.ReLU(inplace=True), nn.Linear(8, 6), nn.Linear(6, 3)]


def cut(chain, blocks, **options):
    return split(chain, blocks, torch.randn(2, 3, 4), **options)


@pytest.mark.parametrize(
    ("blocks", "lengths"),
    [(1, [5]), (2, [2, 3]), (4, [1, 1, 1, 2]), (range(1, 3), [1, 1, 3]), ([4], [4, 1]), ([], [5])],
)
def test_where_a_sequence_is_cut(blocks, lengths):
    chain = layers()
    chain[3] = nn.ReLU()
    network = cut(nn.Sequential(*chain), blocks)
    assert [len(block.body) for block in network.blocks] == lengths
    assert all(a is b for a, b in zip(chain, [m for block in network.blocks for m in block.body]))
    assert network.blocks[-1].aux is chain[-1]


@pytest.mark.parametrize("blocks", [0, -1, 6, [0, 2], [3, 2], [5], [9]])
def test_every_block_needs_a_layer(blocks):
    with pytest.raises(ValueError, match="every block needs at least one layer"):
        cut(layers(), blocks)


@pytest.mark.parametrize("engine", [ReverseMode, ForwardMode])
@pytest.mark.parametrize("perturbation", [ActivityPerturbation, WeightPerturbation, WeightPerSamplePerturbation])
def test_token_indices_are_inputs_like_any_others(perturbation, engine):
    class Mean(nn.Module):
        def forward(self, x):
            return x.mean(1)

    torch.manual_seed(0)
    tokens, labels = torch.randint(10, (4, 5)), torch.arange(4) % 3
    layers = nn.Embedding(10, 6), nn.Linear(6, 6), nn.Tanh(), nn.Sequential(Mean(), nn.Linear(6, 3))
    network = split(layers, 2, example=tokens).double()
    expected = Definition(network, tokens, labels)
    GradientEstimator(LocalTarget(), LocalGuess(), perturbation(), engine=engine()).estimate(network, tokens, labels)
    for gradient, right in zip(body_gradients(network)[0], expected.weight("local", 0)):
        assert_close(gradient, right, 1e-8)  # a target projected on itself


def test_what_cannot_be_split():
    with pytest.raises(ValueError, match=r"no head: it gives \(2, 1, 3, 4\)"):
        cut([nn.Linear(4, 4), nn.Unflatten(1, (1, 3))], 1)
    with pytest.raises(ValueError, match="block 1 changes its input in place"):
        cut(layers(), [3])
    shared = nn.Linear(4, 4)
    with pytest.raises(ValueError, match="share a layer"):
        cut([shared, nn.ReLU(), shared, nn.Flatten(), nn.Linear(12, 3)], [2])


def test_to_split_changes_nothing():
    chain = nn.Sequential(*layers())
    before, example = snapshot(chain), torch.randn(2, 3, 4)
    kept = example.clone()
    split(chain, [2], example)
    assert all(torch.equal(value, before[name]) for name, value in snapshot(chain).items())
    assert torch.equal(example, kept)
    assert all(module.training for module in chain.modules())


def test_an_auxiliary_of_ones_own():
    network = cut(layers(), [2], auxiliary=lambda h, classes: nn.Sequential(nn.Tanh(), nn.Linear(h.shape[1], classes)))
    assert network.blocks[0].aux[1].weight.shape == (3, 8)


@pytest.mark.parametrize(
    ("shape", "positions"), [((5,), ()), ((6, 5), (1,)), ((5, 3, 2), (2, 3)), ((5, 2, 3, 2), (2, 3, 4))]
)
def test_the_pooled_auxiliary_takes_any_output(shape, positions):
    x = torch.randn(2, *shape, dtype=torch.float64)
    aux = PooledAuxiliary(x, 3).double()
    assert_close(aux(x), aux.linear(x.mean(positions) if positions else x))


@pytest.mark.parametrize(
    ("example", "length", "rows"), [(own_blocks, 1, 7), (vision_transformer, 0, 16), (regression, 1, 10)]
)
def test_examples_print_a_table(example, length, rows, capsys):
    example.main(length)
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == 1 + rows
    assert all("nan" not in row and row.endswith(" s") for row in printed[1:])
