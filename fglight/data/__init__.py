"""Data sets as batches: in memory on the training device, and folders of images that are read as training goes."""

from importlib import import_module
from typing import Any

_MODULES = {
    "Batches": "batches",
    "DataModule": "base",
    "ImageDataModule": "in_memory",
    "ImagenetteDataModule": "imagenette",
    "Samples": "in_memory",
    "TextDataModule": "text",
    "VectorDataModule": "vectors",
    "image_folder": "folders",
}

__all__ = list(_MODULES)


def __getattr__(name: str) -> Any:
    """Load what needs torch when it is asked for; what image files are needs none."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"fglight.data.{_MODULES[name]}"), name)
