"""The networks beside the ResNets: how they are cut, what their auxiliary networks see, and what is refused."""

import pytest
import torch
from helpers import compose
from torch import nn
from torchvision.models import get_model
from torchvision.models._api import WeightsEnum

from fglight import build_model
from fglight.errors import ConfigError
from fglight.models import as_maps
from fglight.models.chain import chain
from fglight.models.torchvision import cut_network

SHIPPED = ("vit", "convnext", "mlp", "torchvision")


def made(name, settings=None, **choices):
    torch.manual_seed(0)
    return build_model(compose(settings, model=name, **{"data": "digits", **choices}))


@pytest.mark.parametrize("data", ["digits", "fashion_mnist", "cifar100"])
@pytest.mark.parametrize("name", SHIPPED)
def test_every_block_gives_logits(name, data):
    cfg = compose(model=name, data=data)
    model = build_model(cfg)
    images = hidden = torch.randn(3, cfg.data.in_channels, cfg.data.image_size, cfg.data.image_size)
    assert len(model.blocks) == 4
    for block in model.blocks:
        hidden = block.body(hidden)
        loss, logits = block.loss(hidden, torch.tensor([0, 1, 2]))
        assert logits.shape == (3, cfg.data.num_classes)
        assert loss.isfinite()
    assert model.eval()(images).shape == (3, cfg.data.num_classes)


# What auxiliary networks see


def test_tokens_of_a_square_are_a_map_row_by_row():
    maps = torch.randn(2, 3, 4, 4)
    tokens = maps.flatten(2).mT
    assert torch.equal(as_maps(tokens), maps)
    assert torch.equal(as_maps(torch.cat([torch.ones(2, 1, 3), tokens], 1)), maps)  # without the class token
    assert torch.equal(as_maps(maps), maps)


def test_other_outputs_are_a_row_or_a_position():
    tokens = torch.randn(2, 6, 3)
    assert torch.equal(as_maps(tokens), tokens.mT[:, :, None])
    assert torch.equal(as_maps(tokens[:, 0]), tokens[:, 0, :, None, None])
    assert as_maps(tokens[:, :2]).shape == (2, 3, 1, 1)  # a class token and a patch


@pytest.mark.parametrize(("aux", "hidden"), [("cnn", 16), ("mlp", 64)])
def test_hidden_widths_follow_from_the_block_s_own(aux, hidden):
    first = next(p for p in made("vit", aux=aux).blocks[0].aux.parameters() if p.dim() > 1)
    assert first.shape[0] == hidden


# Cutting


@pytest.mark.parametrize("name", ["mobilenet_v3_small", "efficientnet_b0", "resnet18", "squeezenet1_1", "densenet121"])
def test_the_layers_one_after_the_other_are_the_network(name):
    torch.manual_seed(0)
    network = get_model(name, weights=None, num_classes=3)
    images = torch.randn(2, 3, 32, 32)
    layers = chain(network)
    network.eval()
    hidden = images
    for layer in layers.values():
        hidden = layer.eval()(hidden)
    assert torch.equal(hidden, network(images))
    assert {id(p) for layer in layers.values() for p in layer.parameters()} == {id(p) for p in network.parameters()}


def test_layers_are_numbered_as_torchvision_numbers_features():
    with torch.device("meta"):
        for name, count in (("vgg11", 21), ("mobilenet_v2", 19), ("mobilenet_v3_small", 13)):
            assert list(chain(get_model(name)))[:count] == [f"features.{i}" for i in range(count)]


def test_a_skip_connection_is_not_cut_and_a_transformer_is():
    with torch.device("meta"):
        assert [name for name in chain(get_model("resnet18")) if "layer2" in name] == ["layer2.0", "layer2.1"]
        assert "encoder.layers.encoder_layer_7" in chain(get_model("vit_b_16"))


def test_a_network_that_is_no_chain_is_one_layer():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x):
            return self.c(self.b(self.a(x)) + x) + x

    assert list(chain(Twice())) == ["a"]


def test_a_module_that_is_called_twice_is_two_layers():
    class Again(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.act, self.b = nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4)

        def forward(self, x):
            return self.act(self.b(self.act(self.a(x))))

    assert list(chain(Again())) == ["a", "act", "b", "act_1"]


@pytest.mark.parametrize(
    ("cuts", "sizes"), [([2, 4, 8], [2, 2, 4, 9]), (["features.2", "features.4", 8], [2, 2, 4, 9]), ([1], [1, 16])]
)
def test_blocks_begin_where_cuts_say(cuts, sizes):
    with torch.device("meta"):
        model = made("torchvision", {"model.cuts": cuts}, data="cifar10")
    assert [len(block.body) for block in model.blocks] == sizes


def test_a_stage_s_name_is_that_of_its_first_layer():
    with torch.device("meta"):
        settings = {"model.network": "resnet18", "model.cuts": ["layer2", "layer3"]}
        model = made("torchvision", settings, data="cifar10")
    with torch.device("meta"):
        names = list(chain(get_model("resnet18")))
    assert len(model.blocks[0].body) == names.index("layer2.0")


def test_trained_weights_keep_all_but_the_classifier(monkeypatch):
    torch.manual_seed(1)
    trained = get_model("squeezenet1_1", weights=None)
    monkeypatch.setattr(WeightsEnum, "get_state_dict", lambda *_, **__: trained.state_dict())
    settings = {"model.network": "squeezenet1_1", "model.weights": "DEFAULT"}
    model = made("torchvision", settings, data="cifar10")
    own = {tuple(p.shape): p for block in model.blocks for p in block.body.parameters()}
    for parameter in list(trained.parameters())[:-2]:
        assert any(
            p.shape == parameter.shape and torch.equal(p, parameter) for b in model.blocks for p in b.parameters()
        )
    assert own[10, 512, 1, 1].shape[0] == 10


# Refusals


REFUSED = {
    "vit": [
        ({"patch_size": 3}, r"model\.patch_size must be .*divisor of data\.image_size=8.*got 3"),
        ({"num_heads": 3}, r"model\.hidden_dim must be .*multiple of model\.num_heads=3.*got 64"),
        ({"num_layers": 0}, r"model\.num_layers must be .*whole number from 1.*got 0"),
    ],
    "convnext": [
        ({"channels": "wide"}, r"model\.channels must be .*list of whole numbers.*got wide"),
        ({"channels": [4]}, r"model\.num_layers must be .*each of model\.channels=\[4\].*got \[2, 2\]"),
        ({"patch_size": 8}, r"data\.image_size must be 16 or more .*got 8"),
    ],
    "mlp": [
        ({"hidden": []}, r"model\.hidden must be .*list of whole numbers.*got \[\]"),
        ({"hidden": [3, "a"]}, r"model\.hidden must be"),
    ],
    "torchvision": [
        ({"network": "vgg"}, r"model\.network must be one of .*vgg11.*, got vgg"),
        ({"network": "swin_t"}, r"model\.network=swin_t is not possible: .*with channels last"),
        ({"network": "vgg11", "arguments": {"num_layers": 2}}, r"model\.arguments=\{'num_layers': 2\} "),
        ({"network": "squeezenet1_1"}, r"data\.image_size=8 .*model\.network=squeezenet1_1: .* too small"),
        ({"weights": "BEST"}, r"model\.weights must be .*null, IMAGENET1K_V1, DEFAULT.*got BEST"),
        ({"cuts": [0, 2]}, r"model\.cuts must be .* 1 to 16 .*got \[0, 2\]"),
        ({"cuts": [2, 17]}, r"model\.cuts must be .* got \[2, 17\]"),
        ({"cuts": [4, 2]}, r"model\.cuts must be .*in order.*got \[4, 2\]"),
        ({"cuts": [2, 2]}, r"model\.cuts must be .* got \[2, 2\]"),
        ({"cuts": ["layer2"]}, r"model\.cuts must be .*features\.1.*got \['layer2'\]"),
        ({"cuts": 3}, r"model\.cuts must be .*list.*got 3"),
    ],
}


@pytest.mark.parametrize(("name", "settings", "message"), [(n, *case) for n in REFUSED for case in REFUSED[n]])
def test_what_is_not_possible_is_refused_in_one_line(name, settings, message):
    with pytest.raises(ConfigError, match=message) as refused, torch.device("meta"):
        made(name, {f"model.{key}": value for key, value in settings.items()})
    assert "\n" not in str(refused.value)


def test_weights_that_cannot_be_downloaded_are_refused(monkeypatch):
    def offline(*_, **__):
        raise OSError("no network")

    monkeypatch.setattr(WeightsEnum, "get_state_dict", offline)
    with pytest.raises(
        ConfigError, match=r"model\.weights=DEFAULT cannot be downloaded \(no network\): .*null, or .*http"
    ):
        made("torchvision", {"model.weights": "DEFAULT"})


def test_a_network_that_gives_no_blocks_is_refused():
    cfg = compose()
    cfg.model = {"_target_": "torch.nn.Identity", "name": "mine"}
    with pytest.raises(ConfigError, match=r"model\._target_ must be .*BlockNetwork.*got torch\.nn\.Identity"):
        build_model(cfg)


def test_images_of_other_colours_are_refused():
    with pytest.raises(ValueError, match=r"data\.in_channels must be .*1 or 3.*got 4"):
        cut_network(nn.Identity, 10, torch.zeros(2, 4, 32, 32), "vgg11")
