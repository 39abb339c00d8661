"""Imagenette, streamed from its folders of JPEG files, as a Lightning data module."""

from functools import partial
from pathlib import Path
from typing import Any

from torchvision import datasets
from torchvision.transforms import v2

from fglight.data.base import require
from fglight.data.download import download
from fglight.data.folders import FolderDataModule
from fglight.errors import DataError

_FOLDERS = {"full": "imagenette2", "320px": "imagenette2-320", "160px": "imagenette2-160"}


class ImagenetteDataModule(FolderDataModule):
    """Imagenette at any size: scaled so that the shorter side fits, then cropped to a square.

    Args:
        size: which of the published sizes to read, by the images' shorter side: ``160px``, ``320px`` or ``full``.
        **settings: the settings of ``FolderDataModule``.

    Raises:
        ConfigError: a setting is out of range.
    """

    def __init__(self, *, size: str = "160px", **settings: Any) -> None:
        super().__init__(**settings)
        require(self.in_channels == 3, "in_channels", self.in_channels, f"3, as in the files of {self.name}")
        require(size in _FOLDERS, "size", size, f"one of {', '.join(_FOLDERS)}")
        self.size = size

    @property
    def folder(self) -> Path:
        """The folder with ``train`` and ``val``."""
        return self.root / _FOLDERS[self.size]

    def check_files(self) -> None:
        """See ``DataModule``."""
        if not self.folder.is_dir() and not self.download:
            raise DataError(self._error(f"{self.folder.name} is missing"))

    def prepare_data(self) -> None:
        """Download and unpack the archive where its folder is missing.

        Raises:
            DataError: the folder is missing and was not downloaded.
        """
        self.check_files()
        if not self.folder.is_dir():
            fetch = partial(datasets.Imagenette, size=self.size, download=True)
            error = self._error(f"{self.folder.name} is missing")
            download(fetch, self.root, self.folder.name, self.folder.is_dir, error)

    def open(self, *transforms: v2.Transform) -> tuple[datasets.ImageFolder, datasets.ImageFolder]:
        """See ``FolderDataModule``."""
        try:
            return super().open(*transforms)
        except DataError as error:
            raise DataError(self._error(str(error))) from error

    def _error(self, problem: str) -> str:
        return (
            f"Imagenette: {problem}. Looked in: {self.root}. Get {self.folder.name}.tgz from "
            f"https://github.com/fastai/imagenette, unpack it and set data.root=<the folder with {self.folder.name}>, "
            "or download it with data.download=true."
        )
