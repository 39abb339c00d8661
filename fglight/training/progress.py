"""The progress bar of a run."""

from typing import Any

import lightning as L
from lightning.pytorch.callbacks import RichProgressBar
from lightning.pytorch.callbacks.progress.rich_progress import ProcessingSpeedColumn

from fglight.log_names import ACCURACY


class ProgressBar(RichProgressBar):
    """Epoch, steps and time, with the current loss and the last epoch's accuracy, on 80 columns.

    Args:
        judged: what the accuracy is of, in a word.
        refresh_rate: steps between looks.
    """

    def __init__(self, judged: str, refresh_rate: int) -> None:
        super().__init__(refresh_rate)
        self.judged = judged

    def configure_columns(self, trainer: L.Trainer) -> list:
        """All but the speed."""
        return [
            column for column in super().configure_columns(trainer) if not isinstance(column, ProcessingSpeedColumn)
        ]

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
