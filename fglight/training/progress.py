"""The progress bar of a run."""

from typing import Any

import lightning as L
from lightning.pytorch.callbacks import RichProgressBar
from lightning.pytorch.callbacks.progress.rich_progress import ProcessingSpeedColumn
from rich.console import Console

from fglight.log_names import ACCURACY


class ProgressBar(RichProgressBar):
    """Epoch, steps and time, with the current loss and the last epoch's accuracy, on 80 columns.

    Where nobody watches, as in a file, an epoch is a line.

    Args:
        judged: what the accuracy is of, in a word.
        refresh_rate: steps between looks.
    """

    def __init__(self, judged: str, refresh_rate: int) -> None:
        watched = Console().is_terminal or Console().is_jupyter
        super().__init__(refresh_rate if watched else 0)
        self.judged = judged

    def configure_columns(self, trainer: L.Trainer) -> list:
        """All but the speed."""
        return [
            column for column in super().configure_columns(trainer) if not isinstance(column, ProcessingSpeedColumn)
        ]

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Where none watches, say what an epoch came to."""
        super().on_train_epoch_end(trainer, pl_module)
        if self.is_disabled and trainer.is_global_zero:
            numbers = (f"{name} {value}" for name, value in self.get_metrics(trainer, pl_module).items())
            print(f"{self._get_train_description(trainer.current_epoch)}:", ", ".join(numbers), flush=True)

    def _get_train_description(self, current_epoch: int) -> str:
        """The epoch, counted from 1."""
        return f"Epoch {current_epoch + 1}/{self.trainer.max_epochs}"

    def get_metrics(self, trainer: L.Trainer, pl_module: L.LightningModule) -> dict[str, Any]:
        """The figures one watches, in few characters."""
        metrics = trainer.progress_bar_metrics
        shown = {"loss": f"{metrics['loss']:.2f}"} if "loss" in metrics else {}
        if ACCURACY in metrics:
            shown[self.judged] = f"{100 * metrics[ACCURACY]:.0f}%"
        return shown
