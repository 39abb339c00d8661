"""Batches of images in memory: order, augmentation and what they follow from."""

import numpy as np
import pytest
import torch
from image_files import (
    pixels,
    random_images,
    same,
    tensors,
)

from fglight.data import Batches
from fglight.data.augment import PADDING
from fglight.data.batches import batch_shares, epoch_generator
from fglight.errors import ConfigError

SIZE = 8


NUMBERED = torch.arange(1, SIZE * SIZE + 1, dtype=torch.uint8).view(1, 1, SIZE, SIZE)


def batches(images, labels=None, **options):
    labels = torch.zeros(len(images), dtype=torch.int64) if labels is None else labels
    channels = images.shape[1]
    return Batches(images, labels, **{"batch_size": 100, "mean": [0.0] * channels, "std": [1.0] * channels, **options})


def windows():
    """Every crop, (top, left, flip) by the bytes of its pixels."""
    padded = np.pad(NUMBERED[0, 0].numpy(), PADDING)
    found = {}
    for top in range(2 * PADDING + 1):
        for left in range(2 * PADDING + 1):
            window = padded[top : top + SIZE, left : left + SIZE]
            found[window.tobytes()] = (top, left, False)
            found[window[:, ::-1].tobytes()] = (top, left, True)
    return found


def test_every_image_is_cropped_and_flipped_on_its_own_and_uniformly():
    known = windows()
    images, _ = tensors(batches(NUMBERED.repeat(8100, 1, 1, 1), augment=True, shuffle=True))
    draws = [known[image.numpy().tobytes()] for image in pixels(images)]  # a KeyError is no true window
    counts = {draw: draws.count(draw) for draw in set(draws)}
    assert len(counts) == len(known) == 162
    assert min(counts.values()) > 20  # 50 expected
    assert max(counts.values()) < 90


def test_channels_of_an_image_are_cropped_together():
    images, _ = tensors(batches(NUMBERED.repeat(50, 3, 1, 1), augment=True))
    assert torch.equal(images, images[:, :1].expand_as(images))


@pytest.mark.parametrize("augment", [False, True])
def test_batches_follow_from_seed_and_epoch(augment):
    images = torch.from_numpy(random_images(64, (3, 8, 8)))

    def epoch(**options):
        return batches(images, torch.arange(64), shuffle=True, augment=augment, batch_size=10, **options)

    loader = epoch(seed=3, epoch=5)
    assert same(loader, loader)
    assert same(loader, epoch(seed=3, epoch=5))
    assert not same(loader, epoch(seed=3, epoch=6))
    assert not same(loader, epoch(seed=4, epoch=5))


def test_neighbouring_seeds_and_epochs_have_unrelated_streams():
    def draws(seed, epoch):
        return torch.rand(4, generator=epoch_generator(seed, epoch)).tolist()

    streams = [draws(seed, epoch) for seed in range(10) for epoch in range(10)]
    assert len({tuple(stream) for stream in streams}) == 100


def test_draws_do_not_touch_the_global_generator():
    before = torch.get_rng_state()
    tensors(batches(NUMBERED.repeat(4, 1, 1, 1), shuffle=True, augment=True))
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize(("count", "batch_size", "sizes"), [(10, 4, [4, 4, 2]), (9, 4, [4, 4]), (8, 4, [4, 4])])
def test_every_training_image_once_but_no_batch_of_one(count, batch_size, sizes):
    images = torch.arange(count, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, 8, 8).contiguous()
    loader = batches(images, torch.arange(count), shuffle=True, batch_size=batch_size)
    assert [len(labels) for _, labels in loader] == sizes
    assert len(loader) == len(sizes)
    seen, labels = tensors(loader)
    assert labels.unique().numel() == labels.numel() == sum(sizes)
    assert torch.equal(pixels(seen)[:, 0, 0, 0].long(), labels)  # each image has kept its label


def test_evaluation_is_in_order_complete_and_only_normalised():
    images = torch.from_numpy(random_images(9, (2, 8, 8)))
    loader = batches(images, torch.arange(9), batch_size=4, mean=[0.2, 0.4], std=[0.5, 0.25])
    seen, labels = tensors(loader)
    expected = (images / 255 - torch.tensor([0.2, 0.4])[:, None, None]) / torch.tensor([0.5, 0.25])[:, None, None]
    assert len(loader) == 3
    assert seen.dtype == torch.float32
    assert torch.equal(labels, torch.arange(9))
    torch.testing.assert_close(seen, expected)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_no_batch_waits_for_the_gpu():
    images = torch.from_numpy(random_images(64, (3, 32, 32))).cuda()
    loader = iter(batches(images, torch.arange(64).cuda(), shuffle=True, augment=True, batch_size=16))
    next(loader)
    torch.cuda.set_sync_debug_mode("error")
    try:
        assert sum(len(labels) for _, labels in loader) == 48
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("processes", [1, 2, 3])
@pytest.mark.parametrize("count", [24, 25, 26, 29, 31])
def test_shares_make_up_the_batches_of_one_process(count, processes, training):
    shares = [batch_shares(count, 12, training=training, processes=processes, rank=r) for r in range(processes)]
    smallest = 2 if training else 1
    covered = []
    for parts in zip(*shares, strict=True):  # as many batches in every process
        sizes = [stop - start for start, stop in parts]
        assert min(sizes) >= smallest
        assert max(sizes) - min(sizes) <= 1
        covered += [place for start, stop in parts for place in range(start, stop)]
    left_out = count % 12 if training and count % 12 < 2 * processes else 0
    assert covered == list(range(count - left_out))


@pytest.mark.parametrize("processes", [1, 2, 3])
def test_too_few_images_for_a_batch_are_refused_in_one_line(processes):
    for training, least in ((True, 2 * processes), (False, processes)):
        assert len(batch_shares(least, 12, training=training, processes=processes)) == 1
        words = f"^a {'training' if training else 'test'} set must have {least} samples or more .*got {least - 1}: "
        with pytest.raises(ConfigError, match=rf"{words}.*data\.holdout"):
            batch_shares(least - 1, 12, training=training, processes=processes)
