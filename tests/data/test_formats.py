"""Damaged files are named."""

import gzip
import pickle
import re
import struct

import numpy as np
import pytest
from image_files import (
    flat,
    make,
    random_images,
    write_batch,
    write_cifar10,
    write_fashion_mnist,
    write_idx,
    write_imagenet32,
)

from fglight.errors import DataError


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
