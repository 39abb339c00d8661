"""The data sets that fit in memory: where their files lie, how they are fetched, read and checked."""

import gzip
import pickle
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
import torchvision

from fglight.data.download import download
from fglight.data.in_memory import Samples
from fglight.data.splits import split
from fglight.errors import DataError


class Digits:
    """The 1,797 hand-written digits that ship with scikit-learn, one in five of each class kept for testing."""

    num_classes: ClassVar[int] = 10
    shape: ClassVar[tuple[int, int, int]] = (1, 8, 8)

    def prepare(self, root: Path, may_download: bool) -> None:
        """Do nothing: the images are part of scikit-learn."""

    def load(self, root: Path) -> tuple[Samples, Samples]:
        """The training and the test images, grey levels 0..16 stretched to 0..255."""
        import sklearn.datasets  # takes seconds, and no other data set needs it

        digits = sklearn.datasets.load_digits()
        images = np.round(digits.images * (255 / 16)).astype(np.uint8)[:, None]
        first, second = map(_samples(images, digits.target).part, split(digits.target, 0.2))
        return first, second


class FileSource(ABC):
    """A data set made of a few files, each of which is taken from the first folder that has it.

    A split is a list of parts; a part is the files, usually one, that ``read`` turns into images and labels.
    """

    title: ClassVar[str]
    num_classes: ClassVar[int]
    shape: ClassVar[tuple[int, int, int]]
    """(channels, height, width) of every image."""
    train_parts: ClassVar[list[tuple[str, ...]]]
    test_parts: ClassVar[list[tuple[str, ...]]]
    subfolders: ClassVar[tuple[str, ...]]
    """Folders below the root that may have the files; the root itself may, too."""
    system_folders: ClassVar[tuple[Path, ...]] = ()
    suffixes: ClassVar[tuple[str, ...]] = ("",)
    """What may follow a file's name."""
    fetch: ClassVar[Callable | None] = None
    """The torchvision data set that downloads the files, None where they cannot be downloaded."""
    remedy: ClassVar[str]
    """What the user can do where the files are missing or damaged."""

    @abstractmethod
    def read(self, *paths: Path) -> tuple[np.ndarray, np.ndarray]:
        """Read the files of one part.

        Args:
            *paths: where the files of the part lie.

        Returns:
            The images, (images, *shape) uint8, and their classes from 0 up, (images,).
        """

    def prepare(self, root: Path, may_download: bool) -> None:
        """Make sure that all files are there, if need be by downloading them into the root.

        Args:
            root: the folder given as ``data.root``.
            may_download: whether missing files may be downloaded.

        Raises:
            DataError: a file is missing and was not downloaded.
        """
        missing = self._missing(root)
        if missing and may_download and self.fetch is not None:
            fetch = partial(self.fetch, train=False, download=True)
            error = self.error(root, f"{missing} is missing")
            download(fetch, root, self.subfolders[0], lambda: self._missing(root) is None, error)
            missing = self._missing(root)
        if missing:
            raise DataError(self.error(root, f"{missing} is missing"))

    def load(self, root: Path) -> tuple[Samples, Samples]:
        """Read and check all files.

        Args:
            root: the folder given as ``data.root``.

        Returns:
            The training and the test images.

        Raises:
            DataError: a file is missing or damaged.
        """
        self.prepare(root, False)
        return self._split(root, self.train_parts), self._split(root, self.test_parts)

    def error(self, root: Path, problem: str) -> str:
        """The text of an error: the problem, the folders looked in and what to do."""
        folders = ", ".join(str(folder) for folder in self._folders(root))
        return f"{self.title}: {problem}. Looked in: {folders}. {self.remedy}"

    def _folders(self, root: Path) -> list[Path]:
        return [*(root / subfolder for subfolder in self.subfolders), root, *self.system_folders]

    def _find(self, root: Path, name: str) -> Path | None:
        candidates = (folder / (name + suffix) for folder in self._folders(root) for suffix in self.suffixes)
        return next((path for path in candidates if path.is_file()), None)

    def _missing(self, root: Path) -> str | None:
        names = (name for part in [*self.train_parts, *self.test_parts] for name in part)
        return next((name for name in names if self._find(root, name) is None), None)

    def _split(self, root: Path, parts: Sequence[tuple[str, ...]]) -> Samples:
        images, labels = zip(*(self._part(root, names) for names in parts))
        return _samples(np.concatenate(images), np.concatenate(labels))

    def _part(self, root: Path, names: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray]:
        paths = [self._find(root, name) for name in names]
        try:
            images, labels = self.read(*paths)
            self._check(images, labels)
        except Exception as error:  # a damaged file can raise nearly anything on its way through gzip and pickle
            files = " with ".join(map(str, paths))
            reason = f"{type(error).__name__}: {error}"
            raise DataError(self.error(root, f"{files} is damaged or not what its name says ({reason})")) from error
        return images, labels

    def _check(self, images: np.ndarray, labels: np.ndarray) -> None:
        if images.dtype != np.uint8 or images.shape[1:] != self.shape or not len(images):
            raise ValueError(f"images of {images.dtype} with shape {images.shape}, not uint8 (images, *{self.shape})")
        if labels.shape != (len(images),) or not np.issubdtype(labels.dtype, np.integer):
            raise ValueError(f"labels of {labels.dtype} with shape {labels.shape} for {len(images)} images")
        if labels.min() < 0 or labels.max() >= self.num_classes:
            raise ValueError(
                f"classes {labels.min()} to {labels.max()} (counted from 0) where there are {self.num_classes}"
            )


class FashionMNIST(FileSource):
    """Fashion-MNIST (Xiao et al., 2017): four IDX files, gzipped or plain."""

    title = "Fashion-MNIST"
    num_classes = 10
    shape = (1, 28, 28)
    train_parts: ClassVar = [("train-images-idx3-ubyte", "train-labels-idx1-ubyte")]
    test_parts: ClassVar = [("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")]
    subfolders = ("FashionMNIST/raw", "fashion-mnist")
    system_folders = (Path("/usr/share/datasets/fashion-mnist"),)
    suffixes = ("", ".gz")
    fetch = torchvision.datasets.FashionMNIST
    remedy = (
        "Install Debian's copy (apt-get install dataset-fashion-mnist), or get the four IDX files from "
        "https://github.com/zalandoresearch/fashion-mnist and set data.root=<their folder>, or download them with "
        "data.download=true."
    )

    def read(self, *paths: Path) -> tuple[np.ndarray, np.ndarray]:
        """Read an images file and a labels file; see ``FileSource.read``."""
        images, labels = (read_idx(path) for path in paths)
        return images[:, None], labels


class CIFAR10(FileSource):
    """CIFAR-10 (Krizhevsky, 2009): the pickled batches of its "python version"."""

    title = "CIFAR-10"
    num_classes = 10
    shape = (3, 32, 32)
    train_parts: ClassVar = [(f"data_batch_{number}",) for number in range(1, 6)]
    test_parts: ClassVar = [("test_batch",)]
    subfolders: ClassVar[tuple[str, ...]] = ("cifar-10-batches-py",)
    fetch = torchvision.datasets.CIFAR10
    remedy = (
        "Get cifar-10-python.tar.gz from https://www.cs.toronto.edu/~kriz/cifar.html, unpack it and set "
        "data.root=<the folder with cifar-10-batches-py>, or download it with data.download=true."
    )
    label_key: ClassVar[str] = "labels"
    first_label: ClassVar[int] = 0

    def read(self, *paths: Path) -> tuple[np.ndarray, np.ndarray]:
        """Read one pickled batch; see ``FileSource.read``."""
        (path,) = paths
        batch = read_pickled_batch(path)
        return np.asarray(batch["data"]).reshape(-1, *self.shape), np.asarray(batch[self.label_key]) - self.first_label


class CIFAR100(CIFAR10):
    """CIFAR-100 (Krizhevsky, 2009) with its 100 fine classes, in the format of CIFAR-10."""

    title = "CIFAR-100"
    num_classes = 100
    train_parts: ClassVar = [("train",)]
    test_parts: ClassVar = [("test",)]
    subfolders = ("cifar-100-python",)
    fetch = torchvision.datasets.CIFAR100
    remedy = (
        "Get cifar-100-python.tar.gz from https://www.cs.toronto.edu/~kriz/cifar.html, unpack it and set "
        "data.root=<the folder with cifar-100-python>, or download it with data.download=true."
    )
    label_key = "fine_labels"


class ImageNet32(CIFAR10):
    """ImageNet at 32×32 (Chrabaszcz et al., 2017), in the format of CIFAR-10 with classes counted from 1."""

    title = "ImageNet32"
    num_classes = 1000
    train_parts: ClassVar = [(f"train_data_batch_{number}",) for number in range(1, 11)]
    test_parts: ClassVar = [("val_data",)]
    subfolders = ("imagenet32", "Imagenet32_train", "Imagenet32_val")
    fetch = None
    remedy = (
        "It cannot be downloaded for you: register at https://image-net.org/download-images, get the 32x32 train and "
        "validation archives (python version) of the downsampled images, unpack both and set "
        "data.root=<the folder with imagenet32, or with Imagenet32_train and Imagenet32_val>."
    )
    first_label = 1


def _samples(images: np.ndarray, labels: np.ndarray) -> Samples:
    return Samples(torch.from_numpy(images), torch.from_numpy(labels.astype(np.int64)))


_IDX_UINT8 = 0x08

# NumPy renames the modules its pickles point to between releases, so the functions are taken from live objects.
_ARRAY_PARTS = {
    "_reconstruct": np.zeros(1).__reduce__()[0],
    "_frombuffer": np.zeros(1).__reduce_ex__(5)[0],
    "scalar": np.int64(0).__reduce__()[0],
    "ndarray": np.ndarray,
    "dtype": np.dtype,
}


def read_idx(path: Path) -> np.ndarray:
    """Read an IDX file of unsigned bytes, gzipped (``*.gz``) or plain.

    Args:
        path: the file.

    Returns:
        Array of uint8 with the shape that the file's header states, read-only.

    Raises:
        Exception: nearly anything, if the compression is broken, the header is not one of unsigned bytes, or the file
            is shorter or longer than it says.
    """
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
        content = file.read()
    if content[:3] != bytes([0, 0, _IDX_UINT8]):
        raise ValueError(f"{path.name} must start with 0x000008, as IDX files of bytes do, got 0x{content[:3].hex()}")
    shape = np.frombuffer(content, ">u4", content[3], offset=4)
    return np.frombuffer(content, np.uint8, offset=4 + shape.nbytes).reshape(shape)


class _ArrayUnpickler(pickle.Unpickler):
    """Unpickles numbers, strings, lists, dicts and NumPy arrays, and refuses whatever else a file may ask for."""

    def find_class(self, module: str, name: str) -> Any:
        if module.partition(".")[0] == "numpy" and name in _ARRAY_PARTS:
            return _ARRAY_PARTS[name]
        if (module, name) == ("_codecs", "encode"):  # how protocol 2 writes the bytes of Python 3
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"asks for {module}.{name}, which no file of arrays needs")


def read_pickled_batch(path: Path) -> dict[str, Any]:
    """Read a dict of arrays and lists, pickled by Python 2 or 3, without running code from the file.

    Args:
        path: the file.

    Returns:
        The dict, its keys as strings whichever Python wrote them.

    Raises:
        ValueError: the file holds something other than a dict.
        Exception: nearly anything, if the file is damaged: pickles are programs.
    """
    with path.open("rb") as file:
        batch = _ArrayUnpickler(file, encoding="bytes").load()
    if not isinstance(batch, dict):
        raise ValueError(f"holds a {type(batch).__name__}, not a dict")
    return {key.decode() if isinstance(key, bytes) else key: value for key, value in batch.items()}
