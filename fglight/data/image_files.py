"""Image files in a folder for each class: what they are, and reading one. Needs no torch."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from PIL import Image

from fglight.errors import DataError
from fglight.text import plain

EXTENSIONS = (".png", ".jpg", ".jpeg", ".bmp", ".ppm", ".pgm", ".tif", ".tiff", ".webp")

_GREY = ("1", "L", "LA")  # PIL's names of what has a single channel, but for transparency


def is_image(path: str, root: str) -> bool:
    """Whether a file is an image by its name; hidden files are none, nor are those in hidden folders below ``root``."""
    return f"{os.sep}." not in f"{os.sep}{path[len(root) :]}" and path.lower().endswith(EXTENSIONS)


def class_names(folder: Path) -> list[str]:
    """The names of the class folders in a folder; hidden ones, such as Jupyter's copies, are none.

    Raises:
        OSError: there is no such folder.
    """
    return sorted(entry.name for entry in os.scandir(folder) if entry.is_dir() and not entry.name.startswith("."))


def found(root: Path, fact: str) -> Any:
    """Find out what a configuration says of a data set.

    Args:
        root: folder with ``train/CLASS/`` and ``val/CLASS/``.
        fact: ``name``, the folder's own, in characters that names of runs may have; ``num_classes``, the number of
            class folders; or of the first training image ``in_channels``, 1 or 3, and ``image_size``, its shorter side.

    Raises:
        DataError: the folder has no classes or no images, or the first image is damaged.
    """
    if fact == "name":
        return plain(root.absolute().name)
    try:
        classes = [str(root / "train" / name) for name in class_names(root / "train")]
    except OSError:
        classes = []
    if fact == "num_classes" and classes:
        return len(classes)
    path = next((path for folder in classes for path in _images(folder)), None)
    if path is None:
        raise DataError(
            f"data.root must be a folder with train/CLASS/*.png or *.jpg, and val/CLASS/, got {root}: there are no "
            f"images in {root / 'train'}"
        )
    image = _read(path)
    return min(image.size) if fact == "image_size" else 1 if image.mode in _GREY else 3


def read_image(path: str, channels: int = 3, side: int | None = None) -> Image.Image:
    """Read one image.

    Args:
        path: its file.
        channels: 1 for grey, or 3 for colour, which grey images are turned into.
        side: width and height that the image must have; None for any.

    Raises:
        DataError: the file is damaged, or another kind of image.
    """
    image = _read(path, whole=True)
    if channels == 1 and image.mode not in _GREY:
        raise DataError(f"{path} is in colour: data.in_channels must be 3, for all images, got 1")
    if side is not None and image.size != (side, side):
        raise DataError(
            f"{path} must have {side}x{side} pixels, as data.image_size says, got {image.width}x{image.height}: with "
            "data.resize=true images may have any size, and are scaled and cropped"
        )
    return image.convert("L" if channels == 1 else "RGB")


def _read(path: str, whole: bool = False) -> Image.Image:
    try:
        with Image.open(path) as image:
            if whole:
                image.load()
    except Exception as error:  # a damaged file can raise nearly anything
        raise DataError(f"{path} is damaged ({error})") from error
    if image.mode[0] in "IF":
        raise DataError(f"{path} must have 8 bits a pixel, got PIL's mode {image.mode}")
    return image


def _images(folder: str) -> Iterator[str]:
    """The images in a folder, in torchvision's order."""
    for inside, _, names in sorted(os.walk(folder, followlinks=True)):
        yield from (path for path in (os.path.join(inside, name) for name in sorted(names)) if is_image(path, folder))
