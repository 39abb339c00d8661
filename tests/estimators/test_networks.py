"""The networks that ship beside the ResNets, against the definitions in plain autograd."""

import pytest
import torch
from definition import Definition
from helpers import ALL_PERTURBATIONS, AUXILIARIES, assert_all_close, body_gradients, build
from torch import nn
from torchvision.models import vgg

from fglight.errors import BlockError

NETWORKS = {
    "vit": {"patch_size": 4, "num_layers": 3, "num_heads": 2, "hidden_dim": 8, "mlp_dim": 6},
    "convnext": {"channels": [4, 6], "num_layers": [1, 2]},
    "mlp": {"hidden": [6, 5, 4]},
    "torchvision": {"network": "mobilenet_v2", "cuts": [1, 2], "arguments": {"width_mult": 0.1}},
}
ENGINES = ("reverse", "forward")
TORCHVISION = {
    "mobilenet_v3_small": {"cuts": ["features.1", "features.3"], "arguments": {}},
    "efficientnet_b0": {"cuts": [1, 2], "arguments": {}},
}


def network(name, settings=None, **choices):
    """A network, its estimator and a batch; batch norm is in evaluation mode, so that it couples no samples."""
    said = {f"model.{key}": value for key, value in NETWORKS[name].items()}
    model, estimator, batch = build({"data.image_size": 8, **said, **(settings or {})}, batch=4, model=name, **choices)
    return model.eval(), estimator, batch


def assert_defined(model, estimator, batch, target, perturb, granularity):
    expected = Definition(model, *batch).estimates(target, perturb, granularity)
    assert all(gradient.any() for gradients in expected for gradient in gradients[:1])
    estimator.estimate(model, *batch)
    assert_all_close(body_gradients(model), expected, 1e-8)


@pytest.mark.parametrize(("perturb", "granularity"), ALL_PERTURBATIONS)
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", NETWORKS)
def test_estimates_are_those_of_the_definition(name, engine, perturb, granularity):
    settings = {"perturb.granularity": granularity} if perturb in ("activity", "weight") else {}
    made = network(name, settings, perturb=perturb, engine=engine)
    assert_defined(*made, "global", perturb, granularity)


@pytest.mark.parametrize("aux", AUXILIARIES)
@pytest.mark.parametrize("target", ["local", "intermediate"])
@pytest.mark.parametrize("name", NETWORKS)
def test_every_auxiliary_reads_every_network(name, target, aux):
    assert_defined(*network(name, perturb="activity", target=target, aux=aux), target, "activity", "sample")


@pytest.mark.parametrize("perturb", ["activity", "weight", "weight_per_sample"])
@pytest.mark.parametrize("name", TORCHVISION)
def test_early_blocks_of_large_networks_are_those_of_the_definition(name, perturb):
    said = {f"model.{key}": value for key, value in {"network": name, **TORCHVISION[name]}.items()}
    assert_defined(*network("torchvision", said, perturb=perturb), "global", perturb, "tensor")


def small_vgg(*_, num_classes, **__):
    """A VGG whose classifier is not a hundred million weights."""
    with torch.device("meta"):
        network = vgg.VGG(nn.Identity(), init_weights=False)
    network.features = vgg.make_layers([4, "M", 6, "M"], batch_norm=True)
    network.classifier = nn.Sequential(nn.Linear(6 * 49, 5), nn.ReLU(True), nn.Dropout(), nn.Linear(5, num_classes))
    return network


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("perturb", ["activity", "weight", "weight_per_sample"])
def test_a_vgg_is_cut_between_any_of_its_layers(perturb, engine, monkeypatch):
    monkeypatch.setattr("torchvision.models.get_model", small_vgg)
    said = {"model.network": "vgg11_bn", "model.cuts": [2, 5, 8], "model.arguments": {}}  # two at activations
    assert_defined(*network("torchvision", said, perturb=perturb, engine=engine), "global", perturb, "tensor")


def test_dropout_is_off_unless_asked_for():
    drawn = {"model.dropout": True}
    for settings in ({}, drawn):
        model, estimator, batch = network("torchvision", settings, engine="forward")
        model.train()
        estimator.estimate(model, *batch)  # the last block's own, of its classifier, is no harm
    efficientnet = {"model.network": "efficientnet_b0", "model.cuts": [1, 4], "model.arguments": {}}
    model, estimator, batch = network("torchvision", {**efficientnet, **drawn}, engine="forward")
    with pytest.raises(BlockError, match=r"engine=forward .* a StochasticDepth, has p=0\.0"):
        estimator.estimate(model.train(), *batch)
