"""Imagenette, streamed from its folders of JPEG files by worker processes, as a Lightning data module."""

from collections.abc import Iterable, Iterator, Sequence, Sized
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler, Subset, default_collate
from torchvision import datasets
from torchvision.transforms import v2

from fglight.data.augment import PADDING
from fglight.data.base import DataModule, is_integer, require
from fglight.data.batches import epoch_generator
from fglight.data.download import download
from fglight.data.shares import batch_shares
from fglight.data.splits import holdout_split
from fglight.errors import DataError
from fglight.layout import laid_out

_FOLDERS = {"full": "imagenette2", "320px": "imagenette2-320", "160px": "imagenette2-160"}


class EpochSampler(Sampler[list[tuple[int, int]]]):
    """Batches of shuffled indices, each with a number of its own to draw the image's augmentation from.

    Both follow from (seed, epoch), whichever worker process gets which image.

    Args:
        count: Number of images.
        seed: The run's seed.
        shares: Which places in the order make up each batch.
    """

    def __init__(self, count: int, seed: int, shares: Sequence[tuple[int, int]]) -> None:
        self.count = count
        self.seed = seed
        self.shares = shares
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Makes the next iteration give the order of another epoch."""
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
        images: Gives an image and its class for an index; its transforms use PyTorch's global generator.
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


class ImagenetteDataModule(DataModule):
    """Imagenette at any size: scaled so that the shorter side fits, then cropped to a square.

    Training crops are random, with padding 4, and half of them are mirrored; test crops are central, and so are all
    with `augment` off. The order and the augmentation of an epoch follow from (seed, epoch) alone, not from the number
    of workers.

    Args:
        size: Which of the published sizes to read, by the images' shorter side: `160px`, `320px` or `full`.
        num_workers: Processes that read and transform images, 0 for none.
        **settings: The settings of `DataModule`.

    Raises:
        ConfigError: A setting is out of range.
    """

    def __init__(self, *, size: str = "160px", num_workers: int = 4, **settings: Any) -> None:
        super().__init__(**settings)
        require(self.in_channels == 3, "in_channels", self.in_channels, f"3, as in the files of {self.name}")
        require(size in _FOLDERS, "size", size, f"one of {', '.join(_FOLDERS)}")
        require(is_integer(num_workers, 0), "num_workers", num_workers, "an integer from 0 up")
        self.size = size
        self.num_workers = num_workers
        self._train: SeededImages | None = None
        self._test: Any = None
        self._train_loader: DataLoader | None = None
        self._test_loader: DataLoader | None = None

    @property
    def folder(self) -> Path:
        """The folder with `train` and `val`."""
        return self.root / _FOLDERS[self.size]

    def prepare_data(self) -> None:
        """Downloads and unpacks the archive where its folder is missing.

        Raises:
            DataError: The folder is missing and was not downloaded.
        """
        if not self.folder.is_dir() and self.download:
            fetch = partial(datasets.Imagenette, size=self.size, download=True)
            error = self._error(f"{self.folder.name} is missing")
            download(fetch, self.root, self.folder.name, self.folder.is_dir, error)
        if not self.folder.is_dir():
            raise DataError(self._error(f"{self.folder.name} is missing"))

    def setup(self, stage: str | None = None) -> None:
        """Lists the images, once.

        Args:
            stage: Ignored, all stages share the lists.

        Raises:
            DataError: A folder is missing or has no images, or `train` and `val` have different classes.
            ConfigError: `num_classes` is not the number of class folders, or `holdout` leaves a part without an
                image of every class.
        """
        if self._train is not None:
            return
        train = self._images("train", self._transform(train=True))
        test = self._images("val", self._transform(train=False))
        if train.classes != test.classes:
            raise DataError(self._error(f"train and val of {self.folder} have different class folders"))
        count = len(train.classes)
        accepted = f"{count}, the number of class folders in {self.folder / 'train'}"
        require(self.num_classes == count, "num_classes", self.num_classes, accepted)
        if self.holdout:
            kept, held = holdout_split(train.targets, self.holdout)
            test = Subset(self._images("train", self._transform(train=False)), held.tolist())
            train = Subset(train, kept.tolist())
        self._train, self._test = SeededImages(train), test

    def train_dataloader(self) -> DataLoader:
        """Returns the training batches of the trainer's current epoch (of epoch 0 without a trainer).

        It is the same loader every time, so that its worker processes live on; its epoch is set anew.
        """
        self.setup()
        if self._train_loader is None:
            shares = self._shares(self._train, training=True)
            self._train_loader = self._loader(self._train, EpochSampler(len(self._train), self.seed, shares))
        self._train_loader.batch_sampler.set_epoch(self.epoch)  # type: ignore[union-attr]  # an EpochSampler
        return self._train_loader

    def val_dataloader(self) -> DataLoader:
        """Returns the batches of `test_dataloader`: the curves of a run are those of the set it is judged on."""
        return self.test_dataloader()

    def test_dataloader(self) -> DataLoader:
        """Returns the images of `val`, or with `holdout` the images held out, in order and never augmented."""
        self.setup()
        if self._test_loader is None:
            shares = self._shares(self._test, training=False)
            self._test_loader = self._loader(self._test, [[*range(*share)] for share in shares])
        return self._test_loader

    def _shares(self, images: Sized, *, training: bool) -> list[tuple[int, int]]:
        return batch_shares(len(images), self.batch_size, training=training, **self.processes)

    def _loader(self, images: Dataset, batches: Iterable[list[Any]]) -> DataLoader:
        # Lightning warns of memory pinned by workers that persist while loaders are reloaded, so none is. A generator
        # of its own keeps the loader from drawing from the global one.
        return DataLoader(
            images,
            batch_sampler=batches,
            collate_fn=_collate,
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
            generator=torch.Generator(),
        )

    def _transform(self, train: bool) -> v2.Transform:
        if train and self.augment:
            crop = [v2.RandomCrop(self.image_size, padding=PADDING), v2.RandomHorizontalFlip()]
        else:
            crop = [v2.CenterCrop(self.image_size)]
        scale = v2.Resize(self.image_size, antialias=True)
        floats = [v2.ToDtype(torch.float32, scale=True), v2.Normalize(self.mean, self.std)]
        return v2.Compose([v2.ToImage(), scale, *crop, *floats, v2.ToPureTensor()])

    def _images(self, split: str, transform: v2.Transform) -> datasets.ImageFolder:
        try:
            return datasets.ImageFolder(self.folder / split, transform, loader=_load_image)
        except FileNotFoundError as error:
            raise DataError(self._error(f"{self.folder / split} is missing or incomplete ({error})")) from error

    def _error(self, problem: str) -> str:
        return (
            f"Imagenette: {problem}. Looked in: {self.root}. Get {self.folder.name}.tgz from "
            f"https://github.com/fastai/imagenette, unpack it and set data.root=<the folder with {self.folder.name}>, "
            "or download it with data.download=true."
        )


def _collate(samples: list[tuple[Tensor, int]]) -> tuple[Tensor, Tensor]:
    """A batch, laid out as its shape says whatever the transforms leave."""
    images, labels = default_collate(samples)
    return laid_out(images), labels


def _load_image(path: str) -> Image.Image:
    try:
        return datasets.folder.pil_loader(path)
    except OSError as error:
        raise DataError(f"Imagenette: {path} is damaged ({error}). Unpack the archive again.") from error
