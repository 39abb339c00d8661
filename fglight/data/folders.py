"""Images in a folder for each class: small sets on the training device, others streamed by worker processes."""

import math
from collections.abc import Iterable, Iterator, Sequence, Sized
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler, Subset, default_collate
from torchvision import datasets
from torchvision.transforms import v2

from fglight.data.augment import PADDING
from fglight.data.base import DataModule, is_integer, require
from fglight.data.batches import batch_shares, epoch_generator
from fglight.data.image_files import class_names, is_image, read_image
from fglight.data.in_memory import ImageDataModule, Samples
from fglight.data.splits import holdout_split
from fglight.errors import DataError, one_line
from fglight.memory_format import as_memory_format


class EpochSampler(Sampler[list[tuple[int, int]]]):
    """Batches of shuffled indices, each with a number of its own to draw the image's augmentation from.

    Both follow from (seed, epoch), whichever worker process gets which image.

    Args:
        count: number of images.
        seed: the run's seed.
        shares: which places in the order make up each batch.
    """

    def __init__(self, count: int, seed: int, shares: Sequence[tuple[int, int]]) -> None:
        self.count = count
        self.seed = seed
        self.shares = shares
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Make the next iteration give the order of another epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.shares)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        generator = epoch_generator(self.seed, self.epoch)
        order = torch.randperm(self.count, generator=generator)
        draws = torch.randint(2**62, (self.count,), generator=generator)
        keys = list(zip(order.tolist(), draws.tolist()))
        return (keys[start:stop] for start, stop in self.shares)


class SeededImages(Dataset):
    """Images whose random transforms draw from the number that comes along with the index.

    Args:
        images: gives an image and its class for an index; its transforms use PyTorch's global generator.
    """

    def __init__(self, images: Any) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, key: tuple[int, int]) -> tuple[Tensor, int]:
        index, draw = key
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(draw)  # torch.manual_seed would also reset the GPU's generator
            return self.images[index]


class Stream(DataLoader):
    """A loader that hands on what its worker processes say of a file, without their tracebacks.

    Args:
        images: gives an image and its class for an element of a batch.
        batches: gives the elements of each batch.
        num_workers: processes that read and transform images, 0 for none.
        **options: for ``torch.utils.data.DataLoader``.
    """

    def __init__(self, images: Dataset, batches: Iterable[list[Any]], num_workers: int, **options: Any) -> None:
        # A generator of its own keeps the loader from drawing from the global one.
        options |= {"batch_sampler": batches, "num_workers": num_workers, "generator": torch.Generator()}
        super().__init__(images, collate_fn=_collate, **options)

    def __iter__(self) -> Any:  # of a type that torch keeps to itself
        """Yield (images, labels).

        Raises:
            DataError: a file is damaged, or another kind of image.
        """
        try:
            yield from super().__iter__()
        except DataError as error:
            raise DataError(str(error).strip().splitlines()[-1].removeprefix("fglight.errors.DataError: ")) from error


class _Images(datasets.ImageFolder):  # type: ignore[misc]  # torchvision has no types
    """The images of a folder for each class, as ``fglight.data.image_files`` finds them."""

    def find_classes(self, directory: Any) -> tuple[list[str], dict[str, int]]:
        """See torchvision."""
        classes = class_names(Path(directory))
        if not classes:
            raise FileNotFoundError(f"no class folder in {directory}")
        return classes, {name: number for number, name in enumerate(classes)}


class FolderDataModule(DataModule):
    """Images streamed from ``train/CLASS/`` and ``val/CLASS/``.

    Training crops are random, with padding 4, and half of them are mirrored; test images, and with ``augment`` off all,
    are cropped centrally where they are not square. The order and the augmentation of an epoch follow from (seed,
    epoch) alone, not from the number of workers.

    Args:
        resize: whether images are of any size and scaled so that the shorter side fits; else all must have
            ``image_size``.
        num_workers: processes that read and transform images, 0 for none.
        **settings: the settings of ``DataModule``.

    Raises:
        ConfigError: a setting is out of range.
    """

    def __init__(self, *, resize: bool = True, num_workers: int = 4, **settings: Any) -> None:
        super().__init__(**settings)
        require(is_integer(num_workers, 0), "num_workers", num_workers, "an integer from 0 up")
        self.resize = resize
        self.num_workers = num_workers

    @property
    def folder(self) -> Path:
        """The folder with ``train`` and ``val``."""
        return self.root

    @cached_property
    def images(self) -> tuple[Any, Any]:
        """Those of training, and of testing or held out.

        Raises:
            DataError: a folder is missing or has no images, or ``train`` and ``val`` have different classes.
            ConfigError: ``num_classes`` is not the number of class folders, or ``holdout`` leaves a part without an
                image of every class.
        """
        evaluation = self._transform(train=False)
        train, test = self.open(self._transform(train=True), evaluation)
        if self.holdout:
            kept, held = holdout_split(train.targets, self.holdout)
            test = Subset(self.open(evaluation, evaluation)[0], held.tolist())
            train = Subset(train, kept.tolist())
        return SeededImages(train), test

    def setup(self, stage: str | None = None) -> None:
        """List the images, once; see ``images``.

        Args:
            stage: ignored, all stages share the lists.
        """
        _ = self.images

    def train_dataloader(self) -> DataLoader:
        """The training batches of the trainer's current epoch (of epoch 0 without a trainer).

        It is the same loader every time, so that its worker processes live on; its epoch is set anew.
        """
        self._train_loader.batch_sampler.set_epoch(self.epoch)  # type: ignore[union-attr]  # an EpochSampler
        return self._train_loader

    def test_dataloader(self) -> DataLoader:
        """The images of ``val``, or with ``holdout`` the images held out, in order and never augmented."""
        return self._test_loader

    @cached_property
    def _train_loader(self) -> DataLoader:
        train, _ = self.images
        return self._loader(train, EpochSampler(len(train), self.seed, self._shares(train, training=True)))

    @cached_property
    def _test_loader(self) -> DataLoader:
        _, test = self.images
        return self._loader(test, [[*range(*share)] for share in self._shares(test, training=False)])

    def _shares(self, images: Sized, *, training: bool) -> list[tuple[int, int]]:
        return batch_shares(len(images), self.batch_size, training=training, **self.processes)

    def _loader(self, images: Dataset, batches: Iterable[list[Any]]) -> DataLoader:
        # Lightning warns of memory pinned by workers that persist while loaders are reloaded, so none is.
        return Stream(images, batches, self.num_workers, persistent_workers=self.num_workers > 0)

    def open(self, *transforms: v2.Transform) -> tuple[datasets.ImageFolder, datasets.ImageFolder]:
        """List the images of ``train/CLASS/`` and ``val/CLASS/``.

        Args:
            *transforms: what is done to training and to test images.

        Raises:
            DataError: a folder is missing or has no images, or ``train`` and ``val`` have different classes.
            ConfigError: ``num_classes`` is not the number of class folders.
        """
        loader = partial(read_image, channels=self.in_channels, side=None if self.resize else self.image_size)
        found = []
        for folder, transform in zip((self.folder / "train", self.folder / "val"), transforms):
            try:
                visible = partial(is_image, root=str(folder))
                found.append(_Images(folder, transform, loader=loader, is_valid_file=visible))
            except FileNotFoundError as error:
                raise DataError(f"{folder} is missing or incomplete ({one_line(error)})") from error
        train, val = found
        if train.classes != val.classes:
            only = {"val": set(val.classes) - set(train.classes), "train": set(train.classes) - set(val.classes)}
            listed = ", ".join(f"only in {split}: {', '.join(sorted(names))}" for split, names in only.items() if names)
            raise DataError(f"train and val of {self.folder} have different class folders ({listed})")
        count = len(train.classes)
        accepted = f"{count}, the number of class folders in {train.root}"
        require(self.num_classes == count, "num_classes", self.num_classes, accepted)
        return train, val

    def _transform(self, train: bool) -> v2.Transform:
        if train and self.augment:
            crop = [v2.RandomCrop(self.image_size, padding=PADDING), v2.RandomHorizontalFlip()]
        else:
            crop = [v2.CenterCrop(self.image_size)]
        scale = [v2.Resize(self.image_size, antialias=True)] if self.resize else []
        floats = [v2.ToDtype(torch.float32, scale=True), v2.Normalize(self.mean, self.std)]
        return v2.Compose([v2.ToImage(), *scale, *crop, *floats, v2.ToPureTensor()])


def _collate(samples: list[tuple[Tensor, int]]) -> tuple[Tensor, Tensor]:
    """A batch, laid out as its shape says whatever the transforms leave."""
    images, labels = default_collate(samples)
    return as_memory_format(images), labels


SMALL = 2**30
"""Bytes of pixels up to which a set lies in memory where nothing else is said."""


class ImageFolders:
    """The images of folders as a source of ``ImageDataModule``.

    Args:
        folders: where they are, and what they are.
    """

    def __init__(self, folders: FolderDataModule) -> None:
        self.folders = folders
        self.num_classes = folders.num_classes
        self.shape = (folders.in_channels, folders.image_size, folders.image_size)

    def prepare(self, root: Path, may_download: bool) -> None:
        """Does nothing: what is missing, loading tells."""

    def load(self, root: Path) -> tuple[Samples, Samples]:
        """Read all images.

        Raises:
            DataError: as ``FolderDataModule.open``, or a file is damaged or another kind of image.
        """
        size = self.folders.image_size
        fit = [v2.Resize(size, antialias=True), v2.CenterCrop(size)] if self.folders.resize else []
        transform = v2.Compose([v2.ToImage(), *fit, v2.ToPureTensor()])
        train, test = map(_samples, self.folders.open(transform, transform))
        return train, test

    @property
    def bytes(self) -> int:
        """How much memory the pixels take."""
        return sum(map(len, self.folders.open(None, None))) * math.prod(self.shape)


def _samples(images: datasets.ImageFolder) -> Samples:
    return Samples(torch.stack([pixels for pixels, _ in images]), torch.tensor(images.targets))


def image_folder(
    *,
    num_classes: int,
    in_channels: int,
    image_size: int,
    root: str | Path,
    mean: float | Sequence[float],
    std: float | Sequence[float],
    resize: bool = False,
    stream: bool | None = None,
    num_workers: int = 4,
    **settings: Any,
) -> DataModule:
    """The data module of a folder with ``train/CLASS/*.png`` or ``*.jpg``, and ``val/CLASS/`` with the same classes.

    Args:
        num_classes: number of class folders.
        in_channels: 1 where all images are grey; 3, which grey images are turned into.
        image_size: height and width of an image in pixels.
        root: the folder.
        mean: mean of each channel, in 0..1 units, or of all channels.
        std: standard deviation of each channel, in 0..1 units, or of all channels.
        resize: whether images are of any size, scaled so that the shorter side fits, and cropped; else all must have
            ``image_size``.
        stream: whether worker processes read the images as training goes; else they lie on the training device. None:
            where their pixels take more than a gigabyte.
        num_workers: processes that read images as training goes, 0 for none.
        **settings: the other settings of ``DataModule``.

    Returns:
        One that streams the images, or one that keeps them in memory.

    Raises:
        ConfigError: a setting is out of range.
        DataError: a folder is missing or has no images, or ``train`` and ``val`` have different classes.
    """
    require(in_channels in (1, 3), "in_channels", in_channels, "1 or 3")
    settings |= {"num_classes": num_classes, "in_channels": in_channels, "image_size": image_size, "root": root}
    for name, value in (("mean", mean), ("std", std)):
        settings[name] = [value] * in_channels if isinstance(value, int | float) else value
    streamed = FolderDataModule(resize=resize, num_workers=num_workers, **settings)
    images = ImageFolders(streamed)
    if images.bytes > SMALL if stream is None else stream:
        return streamed
    return ImageDataModule(source=images, **settings)
