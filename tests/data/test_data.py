"""Properties of the data modules: what a batch may hold, what it depends on, and what a broken file leads to."""

import gzip
import pickle
import re
import struct
from pathlib import Path

import lightning
import numpy as np
import pytest
import torch
from image_files import (
    CONF,
    DEBIAN,
    IN_MEMORY,
    flat,
    imagenette,
    make,
    pixels,
    random_images,
    same,
    tensors,
    write_batch,
    write_cifar10,
    write_cifar100,
    write_fashion_mnist,
    write_idx,
    write_imagenet32,
    write_imagenette,
)
from omegaconf import OmegaConf
from PIL import Image

from fglight.build import build_data
from fglight.data import Batches, ImageDataModule, ImagenetteDataModule
from fglight.data import sources as data_sources
from fglight.data.augment import PADDING
from fglight.data.batches import epoch_generator
from fglight.data.sources import FashionMNIST
from fglight.errors import ConfigError, DataError


@pytest.fixture
def no_debian(monkeypatch, tmp_path):
    monkeypatch.setattr(FashionMNIST, "system_folders", (tmp_path / "system",))


# Augmentation: images whose pixels are all different, so that every window can be recognised.

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


# The data module in memory.


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
    kept = module._train.images if not holdout else torch.cat([module._train.images, module._test.images])
    first = plain._train.images[:count]
    assert sorted(image.numpy().tobytes() for image in kept) == sorted(image.numpy().tobytes() for image in first)
    assert len(module._test.labels) == (len(plain._test.labels) if not holdout else -(-count // 4))


@pytest.mark.parametrize("count", [0, -1, 1438])
def test_more_training_images_than_there_are(tmp_path, count):
    with pytest.raises(
        ConfigError, match=rf"data\.train_images={count} is not possible: accepted is a whole number from 1 to"
    ):
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


# Files.


def check_module(module, images, labels, train):
    """The module gives exactly the images written, the first `train` of them for training."""
    options = {"mean": torch.tensor(module.mean)[:, None, None], "std": torch.tensor(module.std)[:, None, None]}
    module.prepare_data()
    seen, seen_labels = tensors(module.test_dataloader())
    assert np.array_equal(pixels(seen * options["std"] + options["mean"]).numpy(), images[train:])
    assert torch.equal(seen_labels, labels[train:])
    seen, seen_labels = tensors(module.train_dataloader())
    raw = pixels(seen * options["std"] + options["mean"]).numpy()
    pairs = {(image.tobytes(), int(label)) for image, label in zip(raw, seen_labels)}
    assert pairs == {(image.tobytes(), int(label)) for image, label in zip(images[:train], labels)}


@pytest.mark.parametrize("inside", [False, True])
def test_cifar10_files(tmp_path, inside):
    images, labels = write_cifar10(tmp_path)
    root = tmp_path / "cifar-10-batches-py" if inside else tmp_path
    check_module(make("cifar10", root, augment=False), images, labels, train=100)


def test_cifar100_files(tmp_path):
    images, labels = write_cifar100(tmp_path)
    check_module(make("cifar100", tmp_path, augment=False), images, labels, train=200)


@pytest.mark.parametrize("folders", [("imagenet32", "imagenet32"), ("Imagenet32_train", "Imagenet32_val"), ("", "")])
def test_imagenet32_files(tmp_path, folders):
    images, labels = write_imagenet32(*(tmp_path / folder for folder in folders), python2=folders[0] == "")
    check_module(make("imagenet32", tmp_path, augment=False), images, labels, train=50)


@pytest.mark.parametrize("suffix", [".gz", ""])
@pytest.mark.parametrize("folder", ["FashionMNIST/raw", "", "system"])
def test_fashion_mnist_files(tmp_path, folder, suffix, no_debian):
    images, labels = write_fashion_mnist(tmp_path / folder, suffix)
    check_module(make("fashion_mnist", tmp_path), images, labels, train=40)


@pytest.mark.skipif(not DEBIAN.is_dir(), reason="needs Debian's dataset-fashion-mnist")
def test_fashion_mnist_of_debian(tmp_path):
    module = make("fashion_mnist", tmp_path)
    module.prepare_data()
    images, labels = tensors(module.train_dataloader())
    assert images.shape == (60000, 1, 28, 28)
    assert labels.bincount().tolist() == [6000] * 10
    assert images.mean().abs() < 1e-3
    assert (images.std() - 1).abs() < 1e-3
    assert sum(len(labels) for _, labels in module.test_dataloader()) == 10000


@pytest.mark.parametrize("name", ["fashion_mnist", "cifar10", "cifar100", "imagenet32"])
def test_missing_files_are_named_with_the_folders_and_the_remedy(tmp_path, name, no_debian):
    module = make(name, tmp_path)
    with pytest.raises(DataError) as error:
        module.prepare_data()
    with pytest.raises(DataError) as again:
        module.setup()
    assert str(error.value) == str(again.value)
    first = module.source.train_parts[0][0]
    assert f"{first} is missing" in str(error.value)
    for folder in [*module.source.subfolders, ""]:
        assert str(tmp_path / folder) in str(error.value)
    assert "data.root=" in str(error.value)
    assert ("dataset-fashion-mnist" in str(error.value)) == (name == "fashion_mnist")
    assert ("register" in str(error.value)) == (name == "imagenet32")


@pytest.mark.parametrize(
    ("name", "downloaded"), [("fashion_mnist", True), ("cifar10", True), ("imagenette", True), ("imagenet32", False)]
)
def test_files_are_looked_for_without_a_download(tmp_path, name, downloaded, no_debian):
    make("digits", tmp_path).check_files()
    with pytest.raises(DataError, match=r"is missing\. Looked in"):
        make(name, tmp_path, download=False).check_files()
    if downloaded:
        make(name, tmp_path, download=True).check_files()
    else:
        with pytest.raises(DataError, match=r"is missing\. Looked in"):
            make(name, tmp_path, download=True).check_files()
    assert list(tmp_path.iterdir()) == []
    write_cifar10(tmp_path)
    make("cifar10", tmp_path, download=False).check_files()


def test_one_missing_batch_is_named(tmp_path):
    write_cifar10(tmp_path)
    (tmp_path / "cifar-10-batches-py" / "data_batch_4").unlink()
    with pytest.raises(DataError, match="data_batch_4 is missing"):
        make("cifar10", tmp_path).prepare_data()


def test_missing_files_are_downloaded_once(tmp_path, monkeypatch):
    calls = []

    def fetch(root, **options):
        calls.append(options)
        write_cifar10(Path(root))

    monkeypatch.setattr(data_sources.CIFAR10, "fetch", staticmethod(fetch))
    for _ in range(2):
        make("cifar10", tmp_path / "new", download=True).prepare_data()
    assert calls == [{"train": False, "download": True}]
    assert len(tensors(make("cifar10", tmp_path / "new").train_dataloader())[1]) == 100
    (tmp_path / "new" / "cifar-10-batches-py" / "test_batch").unlink()
    with pytest.raises(DataError, match=r"test_batch is missing.*cifar-10-batches-py exists but is not complete"):
        make("cifar10", tmp_path / "new", download=True).prepare_data()


@pytest.mark.parametrize("name", ["fashion_mnist", "cifar10", "imagenette"])
def test_a_failed_download_is_one_error_and_leaves_nothing_behind(tmp_path, name, monkeypatch, no_debian):
    def fail(url, *args, **options):
        raise OSError("no network")

    monkeypatch.setattr("torchvision.datasets.utils._urlretrieve", fail)
    monkeypatch.setattr("torchvision.datasets.utils._get_redirect_url", fail)
    with pytest.raises(DataError, match=r"is missing\..*Looked in: .*data\.root=.*The download failed: .*no network"):
        make(name, tmp_path, download=True).prepare_data()
    assert [path.name for path in tmp_path.iterdir() if path.name != ".download.lock"] == []


def break_cifar(path, **content):
    write_batch(path, **{"data": flat(random_images(20, (3, 32, 32))), "labels": [0] * 20, **content})


class Danger:
    def __reduce__(self):
        return (exec, ("raise SystemExit('code of the file was run')",))


CIFAR_DAMAGE = {
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:-500]),
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_text("<html>404</html>"),
    "list": lambda path: path.write_bytes(pickle.dumps([1])),
    "code": lambda path: path.write_bytes(pickle.dumps({"data": Danger()})),
    "no_labels": lambda path: write_batch(path, data=flat(random_images(20, (3, 32, 32)))),
    "small_images": lambda path: break_cifar(path, data=flat(random_images(20, (3, 31, 31)))),
    "floats": lambda path: break_cifar(path, data=flat(random_images(20, (3, 32, 32))).astype(np.float32)),
    "no_images": lambda path: break_cifar(path, data=np.zeros((0, 3072), np.uint8), labels=[]),
    "few_labels": lambda path: break_cifar(path, labels=[0] * 19),
    "class_10": lambda path: break_cifar(path, labels=[0] * 19 + [10]),
    "class_minus_1": lambda path: break_cifar(path, labels=[0] * 19 + [-1]),
}


@pytest.mark.parametrize("damage", CIFAR_DAMAGE)
def test_a_damaged_pickle_is_named(tmp_path, damage):
    write_cifar10(tmp_path)
    path = tmp_path / "cifar-10-batches-py" / "data_batch_2"
    CIFAR_DAMAGE[damage](path)
    module = make("cifar10", tmp_path)
    module.prepare_data()
    with pytest.raises(DataError, match=rf"{re.escape(str(path))} is damaged.*Looked in: .*kriz/cifar\.html"):
        module.setup()


def test_labels_of_imagenet32_count_from_1(tmp_path):
    write_imagenet32(tmp_path, tmp_path)
    write_batch(tmp_path / "val_data", data=flat(random_images(2, (3, 32, 32))), labels=[0, 5])
    with pytest.raises(DataError, match=r"val_data is damaged.*classes -1 to 4"):
        make("imagenet32", tmp_path).setup()


def zipped(content):
    return lambda path: path.write_bytes(gzip.compress(content))


IDX_DAMAGE = {
    "truncated_gzip": lambda path: path.write_bytes(path.read_bytes()[:200]),
    "no_gzip": lambda path: path.write_text("<html>404</html>"),
    "empty": zipped(b""),
    "wrong_magic": zipped(bytes([0, 0, 13, 3]) + bytes(12)),
    "short_header": zipped(bytes([0, 0, 8, 3]) + bytes(4)),
    "short_data": zipped(bytes([0, 0, 8, 3]) + struct.pack(">3I", 40, 28, 28) + bytes(40 * 28 * 28 - 1)),
    "long_data": zipped(bytes([0, 0, 8, 3]) + struct.pack(">3I", 40, 28, 28) + bytes(40 * 28 * 28 + 1)),
    "other_size": lambda path: write_idx(path, random_images(40, (8, 8))),
    "fewer_images": lambda path: write_idx(path, random_images(39, (28, 28))),
    "labels": lambda path: write_idx(path, np.zeros(40, np.uint8)),
}


@pytest.mark.parametrize("damage", IDX_DAMAGE)
def test_a_damaged_idx_file_is_named(tmp_path, damage, no_debian):
    write_fashion_mnist(tmp_path)
    path = tmp_path / "train-images-idx3-ubyte.gz"
    IDX_DAMAGE[damage](path)
    with pytest.raises(DataError, match=rf"{re.escape(str(path))}.* is damaged.*Looked in: .*data\.root="):
        make("fashion_mnist", tmp_path).setup()


def test_an_eleventh_class_is_named(tmp_path, no_debian):
    write_fashion_mnist(tmp_path)
    write_idx(tmp_path / "t10k-labels-idx1-ubyte.gz", np.full(20, 10, np.uint8))
    with pytest.raises(DataError, match=r"t10k-labels-idx1-ubyte\.gz is damaged.*classes 10 to 10"):
        make("fashion_mnist", tmp_path).setup()


# Settings.

BAD_SETTINGS = [
    ({"batch_size": 1}, "data.batch_size=1 is not possible: accepted is an integer from 2 up"),
    ({"batch_size": 2.5}, "data.batch_size=2.5"),
    ({"batch_size": True}, "data.batch_size=True"),
    ({"holdout": 1}, "data.holdout=1 is not possible: accepted is in [0, 1)"),
    ({"holdout": -0.1}, "data.holdout=-0.1"),
    ({"holdout": "half"}, "data.holdout=half"),
    ({"mean": [0.5, 0.5]}, "data.mean=[0.5, 0.5] is not possible: accepted is a list with one number for each of"),
    ({"std": 0.5}, "data.std=0.5"),
]


@pytest.mark.parametrize("name", ["digits", "imagenette"])
@pytest.mark.parametrize(("settings", "message"), BAD_SETTINGS)
def test_settings_out_of_range(tmp_path, name, settings, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        make(name, tmp_path, **settings)


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("digits", {"std": [0.0]}, "data.std=[0.0] is not possible: accepted is above 0"),
        (
            "digits",
            {"num_classes": 11},
            "data.num_classes=11 is not possible: accepted is 10, as in the files of digits",
        ),
        ("cifar100", {"num_classes": 20}, "data.num_classes=20 is not possible: accepted is 100"),
        ("digits", {"image_size": 28}, "data.image_size=28 is not possible: accepted is 8"),
        (
            "cifar10",
            {"in_channels": 1, "mean": [0.5], "std": [0.5]},
            "data.in_channels=1 is not possible: accepted is 3",
        ),
        ("imagenette", {"in_channels": 1, "mean": [0.5], "std": [0.5]}, "data.in_channels=1"),
        ("imagenette", {"image_size": 0}, "data.image_size=0"),
        ("imagenette", {"size": "64px"}, "data.size=64px is not possible: accepted is one of full, 320px, 160px"),
        ("imagenette", {"num_workers": -1}, "data.num_workers=-1"),
    ],
)
def test_settings_that_do_not_fit_the_data_set(tmp_path, name, settings, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        make(name, tmp_path, **settings)


def test_seed_out_of_range(tmp_path):
    with pytest.raises(ConfigError, match="seed=-1 is not possible"):
        make("digits", tmp_path, seed=-1)


@pytest.mark.parametrize("holdout", [1e-6, 0.999])
def test_holdout_that_leaves_a_class_out(tmp_path, holdout):
    with pytest.raises(ConfigError, match=rf"data\.holdout={holdout} is not possible"):
        make("digits", tmp_path, holdout=holdout).setup()


# Imagenette.


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
    with pytest.raises(ConfigError, match=r"data\.num_classes=10 is not possible: accepted is 3, the number of class"):
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


# Under Lightning.


class Recorder(lightning.LightningModule):
    """Trains nothing to speak of and notes which images it saw in which epoch."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen = {}
        self.judged = []

    def training_step(self, batch, index):
        images, labels = batch
        self.seen.setdefault(self.current_epoch, []).append((float(images.double().sum()), labels.tolist()))
        return self.weight * images.mean()

    def validation_step(self, batch, index):
        self.judged.append(batch[1].tolist())

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(tmp_path, module, epochs, checkpoint=None, reload=1):
    saver = lightning.pytorch.callbacks.ModelCheckpoint(tmp_path / "checkpoints", save_last=True)
    trainer = lightning.Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        reload_dataloaders_every_n_epochs=reload,
        callbacks=[saver],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    recorder = Recorder()
    trainer.fit(recorder, module, ckpt_path=checkpoint)
    return recorder, saver.last_model_path


@pytest.mark.parametrize(("name", "workers"), [("digits", None), ("imagenette", 0), ("imagenette", 2)])
def test_a_resumed_run_sees_the_batches_of_an_unbroken_one(tmp_path, name, workers):
    write_imagenette(tmp_path)

    def module():
        if name == "digits":
            return make("digits", tmp_path, batch_size=500, augment=True, seed=1)
        return imagenette(tmp_path, batch_size=9, seed=1, num_workers=workers)

    unbroken, _ = fit(tmp_path / "unbroken", module(), 3)
    _, checkpoint = fit(tmp_path / "broken", module(), 2)
    resumed, _ = fit(tmp_path / "resumed", module(), 3, checkpoint)
    assert sorted(unbroken.seen) == [0, 1, 2]
    assert unbroken.seen[0] != unbroken.seen[1] != unbroken.seen[2]
    assert resumed.seen == {2: unbroken.seen[2]}


def test_a_trainer_that_would_repeat_an_epoch_is_refused(tmp_path):
    with pytest.raises(
        ConfigError, match=r"trainer\.reload_dataloaders_every_n_epochs=0 is not possible: accepted is 1"
    ):
        fit(tmp_path, make("digits", tmp_path), 2, reload=0)
    seen = fit(tmp_path, make("digits", tmp_path), 1, reload=0)[0].seen[0]
    assert [labels for _, labels in seen] == [y.tolist() for _, y in make("digits", tmp_path).train_dataloader()]
