"""Data modules in memory: what is trained on, held out and tested on."""

from pathlib import Path

import pytest
import torch
from image_files import (
    CONF,
    IN_MEMORY,
    make,
    pixels,
    same,
    tensors,
    write_cifar10,
)
from omegaconf import OmegaConf

from fglight.build import build_data
from fglight.data import ImageDataModule, ImagenetteDataModule
from fglight.errors import ConfigError


def test_digits_are_split_by_class_the_same_way_for_every_seed(tmp_path):
    module = make("digits", tmp_path)
    images, labels = tensors(module.test_dataloader())
    _, train_labels = tensors(module.train_dataloader())
    assert (len(train_labels), len(labels)) == (1437, 360)
    assert (labels.bincount() * 4 - train_labels.bincount()).abs().max() <= 4
    assert same(module.test_dataloader(), make("digits", tmp_path, seed=9).test_dataloader())
    assert same(module.test_dataloader(), module.val_dataloader())
    raw = pixels(images * 0.3760 + 0.3054)
    assert (raw.min(), raw.max()) == (0, 255)


def test_mean_and_std_of_the_digits_are_those_of_the_training_images(tmp_path):
    images, _ = tensors(make("digits", tmp_path).train_dataloader())
    assert images.mean().abs() < 1e-3
    assert (images.std() - 1).abs() < 1e-3


def test_loaders_can_be_asked_for_again_and_again(tmp_path):
    module = make("digits", tmp_path, seed=2)
    module.setup("fit")
    assert same(module.train_dataloader(), module.train_dataloader())
    assert not same(module.train_dataloader(), make("digits", tmp_path, seed=3).train_dataloader())


@pytest.mark.parametrize("name", ["digits", "cifar10"])
def test_holdout_takes_the_place_of_the_test_set(tmp_path, name):
    write_cifar10(tmp_path)
    options = {"augment": False, "mean": [0.0] * 3, "std": [1.0] * 3} if name == "cifar10" else {}
    plain = make(name, tmp_path, **options)
    module = make(name, tmp_path, seed=1, holdout=0.25, **options)
    images, labels = tensors(plain.train_dataloader())
    kept, kept_labels = tensors(module.train_dataloader())
    held, held_labels = tensors(module.test_dataloader())

    def keys(batch):
        return sorted(image.numpy().tobytes() for image in pixels(batch * 0.1 + 0.5))

    assert keys(torch.cat([kept, held])) == keys(images)  # nothing lost, nothing twice, no test image
    assert len(held) == -(-len(images) // 4)
    assert (held_labels.bincount() - labels.bincount() / 4).abs().max() < 1
    assert (kept_labels.bincount() + held_labels.bincount()).equal(labels.bincount())
    assert same(module.test_dataloader(), make(name, tmp_path, seed=5, holdout=0.25, **options).test_dataloader())


@pytest.mark.parametrize("holdout", [0.0, 0.25])
def test_the_first_training_images_alone(tmp_path, holdout):
    write_cifar10(tmp_path)
    plain = make("cifar10", tmp_path, augment=False)
    count = len(tensors(plain.train_dataloader())[1]) // 2
    module = make("cifar10", tmp_path, augment=False, train_images=count, holdout=holdout)
    module.setup()
    plain.setup()
    kept = module._train.inputs if not holdout else torch.cat([module._train.inputs, module._test.inputs])
    first = plain._train.inputs[:count]
    assert sorted(image.numpy().tobytes() for image in kept) == sorted(image.numpy().tobytes() for image in first)
    assert len(module._test.labels) == (len(plain._test.labels) if not holdout else -(-count // 4))


@pytest.mark.parametrize("count", [0, -1, 1438])
def test_more_training_images_than_there_are(tmp_path, count):
    with pytest.raises(ConfigError, match=rf"data\.train_images must be a whole number from 1 to 1437, got {count}"):
        make("digits", tmp_path, train_images=count).setup()


@pytest.mark.parametrize("name", [*IN_MEMORY, "imagenette"])
def test_every_configuration_has_the_settings_that_others_rely_on(name, monkeypatch):
    text = (CONF / f"{name}.yaml").read_text()
    monkeypatch.delenv("FGLIGHT_DATA", raising=False)
    config = OmegaConf.load(CONF / f"{name}.yaml")
    assert text.startswith("# ")
    assert (config.name, config.root, config.batch_size, config.holdout) == (name, "data", 128, 0)
    assert config.augment == (name not in ("digits", "fashion_mnist"))
    assert len(config.mean) == len(config.std) == config.in_channels
    monkeypatch.setenv("FGLIGHT_DATA", "/elsewhere")
    module = build_data(OmegaConf.create({"data": config, "seed": 4}))
    assert isinstance(module, ImagenetteDataModule if name == "imagenette" else ImageDataModule)
    assert (module.root, module.seed) == (Path("/elsewhere"), 4)
