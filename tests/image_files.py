"""Data modules as a run makes them, and files as the data sets' authors publish them, only smaller."""

import gzip
import pickle
import struct
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from omegaconf import OmegaConf
from PIL import Image

from fglight.build import build_data
from fglight.data.sources import FashionMNIST

CONF = Path(__file__).parents[1] / "conf" / "data"
IN_MEMORY = ["digits", "fashion_mnist", "cifar10", "cifar100", "imagenet32"]
DEBIAN = FashionMNIST.system_folders[0]


def make(name, root, seed=0, **settings):
    """The data module of a configuration file, as a run instantiates it."""
    config = OmegaConf.load(CONF / f"{name}.yaml")
    config = OmegaConf.merge(config, {"root": str(root), "download": False, **settings})
    return build_data(OmegaConf.create({"data": config, "seed": seed}))


def tensors(loader):
    """All images and labels of a loader, in its order."""
    images, labels = zip(*loader)
    return torch.cat(images), torch.cat(labels)


def pixels(images):
    """The bytes of images that are only divided by 255."""
    return (images * 255).round().to(torch.uint8)


def same(loader, other):
    return all(torch.equal(a, b) for a, b in zip(tensors(loader), tensors(other)))


def random_images(count, shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, *shape), dtype=np.uint8)


# Files as the data sets' authors publish them, only smaller.


class Python2Pickler(pickle._Pickler):
    """Writes strings and bytes alike as the byte strings of Python 2, in which CIFAR is published."""

    dispatch: ClassVar = dict(pickle._Pickler.dispatch)

    def save_bytestring(self, value):
        value = value.encode() if isinstance(value, str) else value
        self.write(b"T" + struct.pack("<i", len(value)) + value)
        self.memoize(value)

    dispatch[str] = dispatch[bytes] = save_bytestring


def write_batch(path, python2=True, **content):
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        (Python2Pickler if python2 else pickle.Pickler)(file, protocol=2).dump(content)
    if python2:
        path.write_bytes(path.read_bytes().replace(b"numpy._core", b"numpy.core"))


def flat(images):
    return images.reshape(len(images), -1)


def write_cifar10(root, per_batch=20):
    images, labels = random_images(6 * per_batch, (3, 32, 32)), [n % 10 for n in range(6 * per_batch)]
    for number, name in enumerate([*(f"data_batch_{n}" for n in range(1, 6)), "test_batch"]):
        part = slice(number * per_batch, (number + 1) * per_batch)
        write_batch(root / "cifar-10-batches-py" / name, data=flat(images[part]), labels=labels[part])
    return images, torch.tensor(labels)


def write_cifar100(root):
    images, labels = random_images(300, (3, 32, 32)), [n % 100 for n in range(300)]
    for name, part in (("train", slice(0, 200)), ("test", slice(200, 300))):
        coarse = [label // 5 for label in labels[part]]
        path = root / "cifar-100-python" / name
        write_batch(path, data=flat(images[part]), fine_labels=labels[part], coarse_labels=coarse)
    return images, torch.tensor(labels)


def write_imagenet32(train, val, python2=True):
    images = random_images(55, (3, 32, 32))
    labels = [1 + 7 * n for n in range(54)] + [1000]
    mean = images.mean(0).ravel()
    for number in range(10):
        part = slice(5 * number, 5 * number + 5)
        path = train / f"train_data_batch_{number + 1}"
        write_batch(path, python2, data=flat(images[part]), labels=labels[part], mean=mean)
    write_batch(val / "val_data", python2, data=flat(images[50:]), labels=labels[50:])
    return images, torch.tensor(labels) - 1


def write_idx(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    content = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


def write_fashion_mnist(folder, suffix=".gz"):
    images, labels = random_images(60, (28, 28)), np.arange(60, dtype=np.uint8) % 10
    for name, part in (("train", slice(0, 40)), ("t10k", slice(40, 60))):
        write_idx(folder / f"{name}-images-idx3-ubyte{suffix}", images[part])
        write_idx(folder / f"{name}-labels-idx1-ubyte{suffix}", labels[part])
    return images[:, None], torch.from_numpy(labels).long()


def write_imagenette(root, folder="imagenette2-160", classes=3, train=8, val=2):
    for split, count in (("train", train), ("val", val)):
        for label in range(classes):
            path = root / folder / split / f"n0{label}"
            path.mkdir(parents=True)
            for number in range(count):
                pixels = random_images(1, (36 + number, 40, 3), seed=100 * label + number)[0]
                Image.fromarray(pixels).resize((50, 36 + number)).save(path / f"{number:02}.JPEG")


def write_image_folder(root, shape=(3, 16, 16), classes=("ape", "bee", "cat"), train=8, val=2, suffix=".png"):
    """Pictures by class; returns the pixels of both splits, (images, *shape), in the order of their names."""
    split = {}
    for number, (name, count) in enumerate((("train", train), ("val", val))):
        split[name] = random_images(count * len(classes), shape, seed=number)
        for index, pixels in enumerate(split[name]):
            path = root / name / classes[index // count] / f"{index % count:02}{suffix}"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0)).save(path)
    return split


def imagenette(root, seed=0, **settings):
    settings = {"num_classes": 3, "image_size": 32, "batch_size": 5, "num_workers": 0, **settings}
    return make("imagenette", root, seed, **settings)
