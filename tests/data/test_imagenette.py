"""Imagenette, streamed from its files."""

import re

import numpy as np
import pytest
import torch
from image_files import (
    imagenette,
    pixels,
    same,
    tensors,
    write_imagenette,
)
from PIL import Image

from fglight.errors import ConfigError, DataError


@pytest.mark.parametrize(("size", "folder"), [("160px", "imagenette2-160"), ("full", "imagenette2")])
def test_imagenette_batches(tmp_path, size, folder):
    write_imagenette(tmp_path, folder)
    module = imagenette(tmp_path, size=size)
    module.prepare_data()
    images, labels = tensors(module.train_dataloader())
    assert images.shape == (24, 3, 32, 32)
    assert images.dtype == torch.float32
    assert labels.bincount().tolist() == [8, 8, 8]
    assert labels.tolist() != sorted(labels.tolist())
    _, labels = tensors(module.val_dataloader())
    assert labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert same(module.val_dataloader(), module.test_dataloader())


def test_imagenette_without_augmentation_is_resized_and_cropped_centrally(tmp_path):
    write_imagenette(tmp_path, val=1)
    module = imagenette(tmp_path, image_size=36, mean=[0.0] * 3, std=[1.0] * 3)
    images, _ = tensors(module.test_dataloader())
    first = np.asarray(Image.open(tmp_path / "imagenette2-160" / "val" / "n00" / "00.JPEG"))  # (36, 50, 3)
    assert np.array_equal(pixels(images[0]).numpy(), first[:, 7:43].transpose(2, 0, 1))
    plain, _ = tensors(imagenette(tmp_path, augment=False).train_dataloader())
    again, _ = tensors(imagenette(tmp_path, augment=False, seed=1).train_dataloader())
    assert {image.numpy().tobytes() for image in plain} == {image.numpy().tobytes() for image in again}


def test_imagenette_batches_follow_from_seed_and_epoch_whatever_the_workers(tmp_path):
    write_imagenette(tmp_path)
    before = torch.get_rng_state()
    alone, workers = imagenette(tmp_path).train_dataloader(), imagenette(tmp_path, num_workers=2).train_dataloader()
    for epoch in (3, 4):
        alone.batch_sampler.set_epoch(epoch)
        workers.batch_sampler.set_epoch(epoch)
        assert same(alone, workers)
    assert torch.equal(before, torch.get_rng_state())
    first = tensors(alone)
    alone.batch_sampler.set_epoch(3)
    assert not torch.equal(first[0], tensors(alone)[0])
    assert not same(imagenette(tmp_path).train_dataloader(), imagenette(tmp_path, seed=1).train_dataloader())


def test_imagenette_augments_an_image_anew_each_epoch(tmp_path):
    write_imagenette(tmp_path, classes=1, train=2)
    loader = imagenette(tmp_path, num_classes=1).train_dataloader()
    seen = set()
    for epoch in range(5):
        loader.batch_sampler.set_epoch(epoch)
        seen |= {image.numpy().tobytes() for image in tensors(loader)[0]}
    assert len(seen) == 10


def test_imagenette_leaves_out_a_batch_of_one(tmp_path):
    write_imagenette(tmp_path, train=7)
    assert [len(labels) for _, labels in imagenette(tmp_path, batch_size=4).train_dataloader()] == [4] * 5
    assert [len(labels) for _, labels in imagenette(tmp_path, batch_size=5).test_dataloader()] == [5, 1]


def test_imagenette_holdout(tmp_path):
    write_imagenette(tmp_path)
    module = imagenette(tmp_path, holdout=0.25, augment=False)
    kept, kept_labels = tensors(module.train_dataloader())
    held, held_labels = tensors(module.test_dataloader())
    images, _ = tensors(imagenette(tmp_path, augment=False).train_dataloader())
    assert held_labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert kept_labels.bincount().tolist() == [6, 6, 6]
    together = {image.numpy().tobytes() for image in torch.cat([kept, held])}
    assert together == {image.numpy().tobytes() for image in images}
    assert len(together) == 24


def test_imagenette_errors(tmp_path):
    with pytest.raises(DataError, match=r"imagenette2-160 is missing\. Looked in: .*fastai/imagenette.*data\.root="):
        imagenette(tmp_path).prepare_data()
    with pytest.raises(DataError, match=r"train is missing or incomplete"):
        imagenette(tmp_path).setup()
    write_imagenette(tmp_path)
    with pytest.raises(ConfigError, match=r"data\.num_classes must be 3, the number of class folders .*, got 10"):
        imagenette(tmp_path, num_classes=10).setup()
    image = tmp_path / "imagenette2-160" / "val" / "n01" / "00.JPEG"
    image.write_bytes(image.read_bytes()[:100])
    with pytest.raises(DataError, match=rf"{re.escape(str(image))} is damaged"):
        tensors(imagenette(tmp_path).test_dataloader())
    (tmp_path / "imagenette2-160" / "val" / "n03").mkdir()
    with pytest.raises(DataError, match="val is missing or incomplete"):
        imagenette(tmp_path).setup()
    (tmp_path / "imagenette2-160" / "val" / "n03" / "0.JPEG").write_bytes(b"")
    with pytest.raises(DataError, match="different class folders"):
        imagenette(tmp_path).setup()
