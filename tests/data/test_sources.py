"""Files as they are published: read as they were written, and missing ones told and fetched."""

import gzip
import pickle
import re
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from image_files import (
    DEBIAN,
    flat,
    make,
    pixels,
    random_images,
    tensors,
    write_batch,
    write_cifar10,
    write_cifar100,
    write_fashion_mnist,
    write_idx,
    write_imagenet32,
)

from fglight.data import sources as data_sources
from fglight.errors import DataError


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
