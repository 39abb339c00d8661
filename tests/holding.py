"""A callback by which a test decides when a run goes on, in whatever process it is."""

import time
from pathlib import Path

import lightning as L
from forked import ROOT

PATH = str(ROOT / "tests")
"""Where processes find this, as their ``PYTHONPATH``."""


def held(epoch: int) -> list[str]:
    """Settings by which a run waits before an epoch for a file ``go`` in the folder where it was started."""
    return ["+callbacks.hold._target_=holding.Hold", f"+callbacks.hold.epoch={epoch}"]


class Hold(L.Callback):
    """Waits before an epoch until there is a file ``go``."""

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch

    def on_train_epoch_start(self, trainer: L.Trainer, _: L.LightningModule) -> None:
        while trainer.current_epoch >= self.epoch and not Path("go").exists():
            time.sleep(0.05)
