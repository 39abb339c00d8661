"""Images as batches: data sets in memory on the training device, and Imagenette from its folders."""

from fglight.data.batches import Batches
from fglight.data.datamodule import ImageDataModule
from fglight.data.imagenette import ImagenetteDataModule

__all__ = ["Batches", "ImageDataModule", "ImagenetteDataModule"]
