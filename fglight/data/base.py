"""The settings that every data set has, and their checks."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning

from fglight.errors import ConfigError


def require(condition: bool, setting: str, value: Any, accepted: str) -> None:
    """Raise an error about one setting of the group ``data`` unless a condition holds.

    Args:
        condition: what must be true.
        setting: the name of the setting, without ``data.``.
        value: the value given.
        accepted: what it must be, in words.

    Raises:
        ConfigError: the condition is false.
    """
    if not condition:
        raise ConfigError(f"data.{setting} must be {accepted}, got {value}")


def is_integer(value: Any, smallest: int) -> bool:
    """Whether a setting is an integer (and no bool) that is not below the smallest one accepted."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= smallest


class DataModule(lightning.LightningDataModule):
    """What the data modules have in common.

    Args:
        name: what the data set is called, in messages and reports.
        num_classes: number of classes.
        in_channels: channels an image.
        image_size: height and width of an image in pixels.
        root: folder to look for files in and to download to.
        batch_size: images a batch, over all processes, from 2 up.
        augment: whether each training image gets its own random crop (padding 4) and horizontal flip.
        mean: mean of each channel, in 0..1 units.
        std: standard deviation of each channel, in 0..1 units.
        images: numbers of training and of test images, for plans, which are made without the files.
        holdout: fraction of the training images that is held out and stands in for the test set, stratified by class
            and the same images for every seed; for searches that must not touch test data.
        download: whether missing files may be downloaded.
        seed: the run's seed.

    Raises:
        ConfigError: a setting is out of range.
    """

    def __init__(
        self,
        *,
        name: str,
        num_classes: int,
        in_channels: int,
        image_size: int,
        root: str | Path,
        batch_size: int,
        augment: bool,
        mean: Sequence[float],
        std: Sequence[float],
        images: Sequence[int] | None = None,
        holdout: float = 0.0,
        download: bool = True,
        seed: int = 0,
    ) -> None:
        super().__init__()
        require(is_integer(image_size, 1), "image_size", image_size, "an integer from 1 up")
        require(is_integer(batch_size, 2), "batch_size", batch_size, "an integer from 2 up, for batch normalisation")
        for setting, values in (("mean", mean), ("std", std)):
            fits = isinstance(values, Sequence) and len(values) == in_channels
            require(fits, setting, values, f"a list with one number for each of {in_channels} channels")
        require(min(std) > 0, "std", std, "above 0 in every channel")
        require(isinstance(holdout, int | float) and 0 <= holdout < 1, "holdout", holdout, "in [0, 1)")
        if not is_integer(seed, 0):
            raise ConfigError(f"seed must be an integer from 0 up, got {seed}")
        self.name = name
        self.num_classes = num_classes
        self.in_channels = in_channels
        self.image_size = image_size
        self.root = Path(root).expanduser().absolute()
        self.batch_size = batch_size
        self.augment = augment
        self.mean = tuple(mean)
        self.std = tuple(std)
        self.holdout = holdout
        self.download = download
        self.seed = seed

    def check_files(self) -> None:
        """Check that the files are there, or may be downloaded, before anything is; here there is nothing to check.

        Raises:
            DataError: a file is missing that ``prepare_data`` would not download.
        """

    def val_dataloader(self) -> Any:
        """The batches of ``test_dataloader``: the curves of a run are those of the set it is judged on."""
        return self.test_dataloader()

    @property
    def processes(self) -> dict[str, Any]:
        """How many processes the trainer has, and which one this is, as ``batch_shares`` takes them."""
        if self.trainer is None:
            return {"processes": 1, "rank": 0}
        return {"processes": self.trainer.world_size, "rank": self.trainer.global_rank}

    @property
    def epoch(self) -> int:
        """The trainer's current epoch, for which a loader of training batches is to be made; 0 without a trainer.

        Raises:
            ConfigError: the trainer means to use the same loader for several epochs.
        """
        if self.trainer is None:
            return 0
        reload = self.trainer.reload_dataloaders_every_n_epochs  # type: ignore[attr-defined]  # Lightning sets it
        if reload != 1 and self.trainer.max_epochs != 1:
            raise ConfigError(
                f"trainer.reload_dataloaders_every_n_epochs must be 1, got {reload}: an epoch would see the batches of "
                "an earlier one again"
            )
        return self.trainer.current_epoch
