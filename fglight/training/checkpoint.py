"""The checkpoint that an interrupted run goes on from."""

import os
import time
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Checkpoint
from rich.console import Console

from fglight.errors import ConfigError, one_line
from fglight.runs.folder import CHECKPOINT

_KEPT = ("metrics", "seconds", "wandb_id", "stopped")


def read_checkpoint(path: Path) -> dict[str, Any]:
    """What a run's checkpoint holds.

    Args:
        path: the file, or the directory of the run.

    Raises:
        ConfigError: there is none, or it cannot be read.
    """
    file = path / CHECKPOINT if path.is_dir() else path
    try:
        content = torch.load(file, map_location="cpu", weights_only=True)
        if not {"state_dict", "global_step", "callbacks"} <= content.keys():
            raise ValueError("it has no state of training")
    except Exception as error:  # a damaged file can raise nearly anything
        if isinstance(error, FileNotFoundError):
            raise ConfigError(f"there is no checkpoint {os.path.relpath(file)}") from None
        reason = one_line(error)[:100]
        raise ConfigError(f"{os.path.relpath(file)} is damaged, or no checkpoint of a run ({reason})") from error
    return content


class LastCheckpoint(Checkpoint):
    """Keeps ``last.ckpt``: the untrained network at first, then the state at the end of every epoch.

    A run that is interrupted or goes wrong in an epoch thus leaves what it had at the epoch's start. The file takes
    its place only when it is whole and the epoch's metrics are on disk: a run killed at any moment has either both
    or repeats the epoch.

    Args:
        path: where the checkpoint goes.

    Attributes:
        metrics: of the last whole epoch, by the names they are logged under.
        seconds: that training took until then, interruptions left out.
        wandb_id: of the run on Weights & Biases, which goes on under the same one.
        stopped: whether training was to end with that epoch, however many there might have been.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.metrics: dict[str, float] = {}
        self.seconds = 0.0
        self.wandb_id: str | None = None
        self.stopped = False
        self._next = path.with_name("next.ckpt")
        self._since = time.perf_counter()

    def usable(self) -> Path | None:
        """The checkpoint to go on from; None where training starts at the beginning.

        A damaged file is moved aside, with a message.
        """
        if not self.path.exists():
            return None
        try:
            content = read_checkpoint(self.path)
            if self.state_key not in content["callbacks"]:
                raise ConfigError(f"{os.path.relpath(self.path)} is no checkpoint of a run")
        except ConfigError as error:
            aside = self.path.with_suffix(".damaged")
            self.path.replace(aside)
            Console(stderr=True).print(f"{error}: moved to {aside.name}, starting over", soft_wrap=True, markup=False)
            return None
        self.wandb_id = content["callbacks"][self.state_key]["wandb_id"]
        return self.path if content["global_step"] else None

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs to know of the part before the interruption."""
        return {name: getattr(self, name) for name in _KEPT}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from ``state_dict``."""
        for name in _KEPT:
            setattr(self, name, state_dict[name])

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Take the first process's folder; the others need not know where it is."""
        self.path, self._next = trainer.strategy.broadcast((self.path, self._next))

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Save the untrained network, and do nothing more where an earlier process was at its end."""
        trainer.should_stop |= self.stopped
        self._since = time.perf_counter()
        if trainer.is_global_zero:
            self._next.unlink(missing_ok=True)  # an earlier process may have been killed while it wrote this
        if not self.path.exists():
            trainer.save_checkpoint(self._next)
            self._commit(trainer)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write the epoch's state, still under another name: its metrics are logged only after this."""
        now = time.perf_counter()
        self.seconds += now - self._since
        self._since = now
        self.metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        self.stopped = trainer.should_stop
        trainer.save_checkpoint(self._next)

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Put the checkpoint of the epoch before in its place."""
        self._commit(trainer)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Put the checkpoint of the last epoch in its place."""
        self._commit(trainer)

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Say what an interruption leaves."""
        if isinstance(exception, KeyboardInterrupt) and trainer.is_global_zero:
            done, folder = trainer.current_epoch, os.path.relpath(self.path.parents[1])
            kept = f"hydra.run.dir={folder} goes on behind epoch {done}" if done else "nothing was kept"
            Console(stderr=True).print(f"Interrupted in epoch {done + 1}: {kept}", soft_wrap=True, highlight=False)

    def _commit(self, trainer: L.Trainer) -> None:
        if not trainer.is_global_zero or not self._next.exists():
            return
        for logger in trainer.loggers:
            logger.save()
        with self._next.open("rb") as file:
            os.fsync(file.fileno())
        self._next.replace(self.path)
