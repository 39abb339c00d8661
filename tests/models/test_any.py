"""Modules of one's own, from the command line."""

import sys

import pytest
import torch
from omegaconf import OmegaConf
from torch import nn

from fglight import build_model, load_config
from fglight.errors import ConfigError


class Own(nn.Module):
    """Two inputs, activations in place, dropout, and arguments of a cutter's names."""

    def __init__(self, num_classes, image_size, blocks=2, width=8, dropout=0.5):
        super().__init__()
        self.left, self.right = (nn.Linear(image_size**2 // 2, width) for _ in range(2))
        layers = ([nn.Linear(width, width), nn.ReLU(inplace=True), nn.Dropout(dropout)] for _ in range(blocks))
        self.layers = nn.Sequential(*(nn.Sequential(*layer) for layer in layers))
        self.head = nn.Linear(width, num_classes)

    def forward(self, left, right):
        return self.head(self.layers(self.left(left.flatten(1)) + self.right(right.flatten(1))))


class Words(nn.Module):
    """Takes what data=text gives."""

    def __init__(self, num_classes):
        super().__init__()
        self.words, self.middle, self.head = nn.Embedding(9, 4), nn.Linear(4, 4), nn.Linear(4, num_classes)

    def forward(self, input_ids, attention_mask):
        return self.head((self.middle(self.words(input_ids)) * attention_mask[..., None]).sum(1))


def halves(images):
    half = images.shape[-1] // 2
    return {"left": images[..., :half], "right": images[..., half:]}


def plain(in_channels, image_size, num_classes, **settings):
    """No class, and any settings."""
    layers = nn.Sequential(nn.Flatten(), nn.Linear(in_channels * image_size**2, 4), nn.ReLU(), nn.Linear(4, 4))
    return nn.Sequential(layers, nn.Linear(4, num_classes), *settings.values())


@pytest.fixture(autouse=True)
def importable(monkeypatch):
    monkeypatch.setitem(sys.modules, "mine", sys.modules[__name__])


def made(target, *settings):
    cfg = load_config(["model=any", f"model._target_=mine.{target}", *(f"model.{setting}" for setting in settings)])
    torch.manual_seed(0)
    return cfg, build_model(cfg)


def test_a_module_is_told_of_the_data_and_cut():
    cfg, model = made("Own", "inputs=mine.halves", "cuts=[layers.1]", "width=6")
    assert cfg.model.name == "Own"
    first, second = model.blocks
    network = first.body.whole.module
    assert network.head.out_features == 10
    assert network.left.weight.shape == (6, 32)
    assert model(torch.randn(3, 1, 8, 8)).shape == (3, 10)
    assert not any(getattr(module, "inplace", False) for module in network.modules())
    assert {id(p) for p in second.body.parameters()} == {
        id(p) for part in (network.layers[1], network.head) for p in part.parameters()
    }


def test_dropout_and_arguments_are_its_own():
    images = torch.randn(3, 1, 8, 8)
    settings = ("inputs=mine.halves", "blocks=2")
    still, moving = (made("Own", *settings, f"dropout={dropout}")[1] for dropout in ("false", "true"))
    assert torch.equal(still(images), still(images))
    assert not torch.equal(moving(images), moving(images))
    deep = made("Own", *settings, "arguments.blocks=5")[1]
    assert len(deep.blocks) == 2
    assert len(deep.blocks[0].body.whole.module.layers) == 5


def test_a_function_that_takes_any_setting_gives_one():
    facts = ("in_channels=1", "image_size=8", "num_classes=10")
    _, model = made("plain", *facts, "blocks=2", "more._target_=torch.nn.Tanh")
    assert len(model.blocks) == 2
    assert model(torch.randn(3, 1, 8, 8)).abs().max() <= 1


def told_of_tokens(cfg):
    OmegaConf.update(cfg, "data.tokens", True, force_add=True)
    return cfg


def test_texts_are_two_inputs():
    cfg = load_config(["model=any", "model._target_=mine.Words", "model.cuts=[middle]"])
    told_of_tokens(cfg)
    cfg.data.update(in_channels=2, image_size=5)
    batch = torch.stack([torch.randint(9, (3, 7)), torch.ones(3, 7, dtype=torch.long)], 1)
    assert build_model(cfg)(batch).shape == (3, 10)
    with pytest.raises(ConfigError, match=r"token ids are for model=transformers or model=any, got model=resnet18_8"):
        build_model(told_of_tokens(load_config()))


@pytest.mark.parametrize(
    ("target", "settings", "said"),
    [
        ("Own", [], r"data\.image_size=8 is not possible with model\._target_=mine\.Own: .*missing 1 required"),
        ("Own", ["inputs=mine.thirds"], r"model\.inputs must be the full name of a function, got mine\.thirds: "),
        ("Own", ["widht=3"], r"model\.widht=3 is not possible, nothing reads it: did you mean model\.width\?"),
        ("Own", ["arguments.depth=3"], r"model\._target_=mine\.Own is not possible with its settings: .*depth"),
        (
            "halves",
            ["images=[1]"],
            r"model\._target_=mine\.halves is not possible with its set",
        ),
        ("Gone", [], r"model\._target_=mine\.Gone is not possible: "),
        ("Own", ["inputs=mine.halves", "blocks=9"], r"blocks must be at most \d, as one tensor"),
    ],
)
def test_what_is_not_possible_is_told_in_one_line(target, settings, said):
    with pytest.raises(ConfigError, match=f"^{said}") as refused:
        made(target, *settings)
    assert "\n" not in str(refused.value)


def test_a_class_must_be_named():
    with pytest.raises(ConfigError, match=r"^model\._target_ must be the name of a class, got None$"):
        load_config(["model=any"])
