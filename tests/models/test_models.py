"""The networks and auxiliary networks: their shapes, how they start and what they cost."""

import math

import numpy as np
import pytest
import torch
from helpers import AUXILIARIES, MODELS, build, compose
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from fglight import build_model
from fglight.models import BlockwiseResNet, CNNAuxiliary, Head, MLPAuxiliary, PredSimAuxiliary, reset_parameters


def bodies_of(blocks, stem="cifar", width=1.0):
    with torch.device("meta"):
        model = BlockwiseResNet(blocks, lambda channels, **size: nn.Conv2d(channels, 10, 1), 10, width=width, stem=stem)
    return [block.body for block in model.blocks]


def kernels(body):
    return [tuple(p.shape) for p in body.parameters() if p.dim() == 4]


# Shapes


def basic_block(inputs, outputs):
    shapes = [(outputs, inputs, 3, 3), (outputs, outputs, 3, 3)]
    return shapes if inputs == outputs else [*shapes, (outputs, inputs, 1, 1)]


@pytest.mark.parametrize(("stem", "first"), [("cifar", (64, 3, 3, 3)), ("imagenet", (64, 3, 7, 7))])
def test_eight_blocks_are_the_stem_with_a_residual_block_and_seven_residual_blocks(stem, first):
    channels = [64, 64, 128, 128, 256, 256, 512, 512]
    expected = [basic_block(*pair) for pair in zip([64, *channels], channels)]
    expected[0].insert(0, first)
    assert [kernels(body) for body in bodies_of(8, stem)] == expected


@pytest.mark.parametrize(("stem", "first"), [("cifar", (64, 3, 3, 3)), ("imagenet", (64, 3, 7, 7))])
def test_sixteen_blocks_are_a_convolution_each_and_two_in_the_first(stem, first):
    channels = [64] * 4 + [128] * 4 + [256] * 4 + [512] * 4
    expected = [[(outputs, inputs, 3, 3)] for inputs, outputs in zip([64, *channels], channels)]
    expected[0] = [first] if stem == "imagenet" else [first, *expected[0]]  # with the ImageNet stem that alone
    assert [kernels(body) for body in bodies_of(16, stem)] == expected


def executed_layers(body):
    """The layers with parameters, as a forward pass calls them."""
    executed = []
    for layer in body.modules():
        if isinstance(layer, nn.Conv2d | nn.BatchNorm2d):
            layer.register_forward_hook(lambda layer, *_: executed.append(layer) or None)
    body(torch.zeros(2, next(body.parameters()).shape[1], 32, 32, device="meta"))
    return executed


@pytest.mark.parametrize("blocks", [8, 16])
def test_parameters_come_in_the_order_of_execution(blocks):
    """Convolution, its batch norm's scale and shift, and so on; the shortcut's last."""
    for body in bodies_of(blocks):
        order = list(body.parameters())
        assert len(order) % 3 == 0
        for kernel, scale, shift in zip(order[::3], order[1::3], order[2::3]):
            assert kernel.dim() == 4
            assert scale.shape == shift.shape == kernel.shape[:1]
        assert [id(p) for layer in executed_layers(body) for p in layer.parameters()] == [id(p) for p in order]


@pytest.mark.parametrize(
    ("blocks", "stem", "side", "sides"),
    [
        (8, "cifar", 32, [32, 32, 16, 16, 8, 8, 4, 4]),
        (16, "cifar", 32, [32] * 4 + [16] * 4 + [8] * 4 + [4] * 4),
        (8, "imagenet", 160, [40, 40, 20, 20, 10, 10, 5, 5]),
        (16, "imagenet", 160, [40] * 4 + [20] * 4 + [10] * 4 + [5] * 4),
    ],
)
def test_resolutions(blocks, stem, side, sides):
    hidden = torch.zeros(2, 3, side, side, device="meta")
    for body, expected in zip(bodies_of(blocks, stem), sides):
        hidden = body(hidden)
        assert hidden.shape[2:] == (expected, expected)


@pytest.mark.parametrize(("width", "expected"), [(1, 64), (0.5, 32), (1 / 64, 1), (2, 128), (0.3, 19)])
def test_width_scales_every_channel_count(width, expected):
    for blocks in (8, 16):
        channels = [kernels(body)[-1][0] for body in bodies_of(blocks, width=width)]
        assert channels[0] == expected
        assert channels[-1] == int(512 * width)


@pytest.mark.parametrize("aux", AUXILIARIES)
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(("data", "size"), [("digits", 8), ("cifar100", 32), ("imagenette", 32)])
def test_every_block_gives_logits(name, aux, data, size):
    cfg = compose({"model.width": 1 / 64}, model=name, aux=aux, data=data)
    model = build_model(cfg)
    images = torch.randn(3, cfg.data.in_channels, size, size)
    hidden = images
    for block in model.blocks:
        hidden = block.body(hidden)
        loss, logits = block.loss(hidden, torch.tensor([0, 1, 2]))
        assert logits.shape == (3, cfg.data.num_classes)
        assert loss.shape == ()
        assert loss.isfinite()
    model.eval()
    assert model(images).shape == (3, cfg.data.num_classes)


# How they start


@pytest.mark.parametrize("aux", AUXILIARIES)
@pytest.mark.parametrize("name", MODELS)
def test_weights_start_kaiming_uniform_and_biases_at_a_hundredth(name, aux):
    model, _, _ = build({"model.width": 0.125}, model=name, aux=aux)
    spread = []
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            bound = math.sqrt(6 / module.weight[0].numel())
            assert module.weight.abs().max() <= bound * (1 + 1e-6)
            spread.append((module.weight / bound).flatten())
            if module.bias is not None:
                assert (module.bias == torch.tensor(0.01)).all()
        elif isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            assert (module.weight == 1).all()
            assert (module.bias == 0).all()
    spread = torch.cat(spread)
    assert spread.abs().max() > 0.999
    assert abs(spread.mean()) < 5 * (1 / 3 / len(spread)) ** 0.5  # of a uniform distribution on [-1, 1]
    assert abs(spread.square().mean() - 1 / 3) < 5 * (4 / 45 / len(spread)) ** 0.5


def test_a_reset_draws_anew_and_leaves_running_statistics():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5, affine=False), nn.Linear(5, 5), nn.BatchNorm1d(5))
    network(torch.randn(8, 4))
    before = {name: value.clone() for name, value in network.state_dict().items()}
    reset_parameters(network)
    for name, value in network.state_dict().items():
        if name in ("0.weight", "2.weight"):
            assert (value != before[name]).all()
        elif "running" in name or "num" in name:
            assert torch.equal(value, before[name])


# Auxiliary networks


@pytest.mark.parametrize("width", [1.0, 0.5, 1 / 64])
@pytest.mark.parametrize(
    ("aux", "blocks", "expected"), [("cnn", 8, 32), ("cnn", 16, 16), ("mlp", 8, 1024), ("mlp", 16, 512)]
)
def test_hidden_widths_of_the_paper_and_of_its_code(aux, blocks, expected, width):
    network = {"cnn": CNNAuxiliary, "mlp": MLPAuxiliary}[aux](8, 10, blocks=blocks, width=width)
    assert network[0 if aux == "cnn" else 2].weight.shape[0] == max(1, int(expected * width))
    explicit = {"cnn": CNNAuxiliary, "mlp": MLPAuxiliary}[aux](8, 10, blocks=blocks, width=width, hidden=7)
    assert {p.shape[0] for p in explicit.parameters()} == {7, 10}


def test_layers_of_the_auxiliaries():
    cnn = [tuple(p.shape) for p in CNNAuxiliary(8, 10, hidden=4).parameters() if p.dim() > 1]
    assert cnn == [(4, 8, 1, 1), *[(4, 4, 3, 3)] * 3, (10, 16)]
    mlp = [tuple(p.shape) for p in MLPAuxiliary(8, 10, hidden=4).parameters() if p.dim() > 1]
    assert mlp == [(4, 32), (4, 4), (4, 4), (10, 4)]
    assert [tuple(p.shape) for p in Head(8, 10).parameters()] == [(8,), (8,), (10, 8), (10,)]


@pytest.mark.parametrize("form", [{}, {"full_conv": False}])
@pytest.mark.parametrize("side", [6, 1])
def test_predsim_loss_by_its_formula(side, form):
    torch.manual_seed(0)
    aux = PredSimAuxiliary(4, 3, **form).double()
    output = torch.randn(5, 4, side, side, dtype=torch.float64)
    labels = torch.tensor([0, 1, 2, 1, 0])
    loss, logits = aux.loss(output, labels)

    maps = aux.conv(output).detach().numpy()
    features = maps.std(axis=(2, 3), ddof=1) if maps.shape[2] > 1 else maps[:, :, 0, 0]
    if not form:  # the paper's: all channels at stride 1
        assert maps.shape == output.shape

    def similarity(rows):
        matrix = np.empty((len(rows), len(rows)))
        for i, a in enumerate(rows):
            for j, b in enumerate(rows):
                a0, b0 = a - a.mean(), b - b.mean()
                matrix[i, j] = a0 @ b0 / np.sqrt((a0 @ a0) * (b0 @ b0))
        return matrix

    matching = ((similarity(features) - similarity(np.eye(3)[labels.numpy()])) ** 2).mean()
    scores = aux(output).detach().numpy()
    log_softmax = scores - np.log(np.exp(scores).sum(1, keepdims=True))
    prediction = -log_softmax[np.arange(5), labels.numpy()].mean()
    assert loss.item() == pytest.approx(0.99 * matching + 0.01 * prediction, rel=1e-9)
    assert np.allclose(logits.detach().numpy(), scores)


@pytest.mark.parametrize("channels", [64, 128, 256, 512])
def test_the_predsim_decoder_reads_2048_numbers(channels):
    with torch.device("meta"):
        aux = PredSimAuxiliary(channels, 10)
    assert aux.decoder[-1].in_features == 2048


# FLOPs at the paper's sizes


def flops(function, *args):
    with FlopCounterMode(display=False) as counter:
        result = function(*args)
    return counter.get_total_flops(), result


PAPER = [("cifar10", 32, "cifar"), ("cifar100", 32, "cifar"), ("imagenette", 160, "imagenet")]


@pytest.mark.parametrize(("data", "side", "stem"), PAPER)
@pytest.mark.parametrize("aux", AUXILIARIES)
@pytest.mark.parametrize("name", MODELS)
def test_auxiliaries_cost_under_a_tenth_of_their_block(name, aux, data, side, stem):
    """App. A.2's rule is of the CNN, MLP and linear ones; predsim keeps to it in the form that is not the paper's."""
    cfg = compose({"aux.full_conv": False} if aux == "predsim" else None, model=name, aux=aux, data=data)
    assert cfg.model.stem == stem
    assert cfg.model.width == 1
    with torch.device("meta"):
        model = build_model(cfg)
        hidden, labels = torch.zeros(128, 3, side, side), torch.zeros(128, dtype=torch.long)
    shares = []
    for block in model.blocks[:-1]:
        block_flops, hidden = flops(block.body, hidden)
        shares.append(flops(block.loss, hidden, labels)[0] / block_flops)
    assert all(0 < share < 0.1 for share in shares), [f"{share:.1%}" for share in shares]


# Errors


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"width": 0.01}, r"model\.width=0\.01 .*1/64"),
        ({"blocks": 12}, r"model\.blocks=12 .*8 or 16"),
        ({"stem": "none"}, r"model\.stem=none .*cifar or imagenet"),
        ({"network": "vgg11"}, r"model\.network must be resnet18, got vgg11 \(model=torchvision"),
    ],
)
def test_impossible_networks_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        BlockwiseResNet(**{"blocks": 8, "auxiliary": nn.Identity, "num_classes": 10, **arguments})
