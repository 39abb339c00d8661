"""When training ends, and what a signal does to it."""

import signal
import threading
from typing import Any

import lightning as L


class StopAfter(L.Callback):
    """Ends training after a number of steps, as ``trainer.max_time`` does after a time: with a look at the test set.

    Lightning's own ``max_steps`` leaves that out within an epoch, and does not go on well from an epoch's end.

    Args:
        steps: how many; -1 for no limit.
    """

    def __init__(self, steps: int) -> None:
        self.steps = steps

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        """End training where that was the last step."""
        trainer.should_stop |= trainer.global_step == self.steps


class KeepSigterm(L.Callback):
    """Keeps the handler of SIGTERM that was there before Lightning put its own in front of it.

    Lightning's waits for the end of a batch and then exits with status 0, under submitit too, whose handler would have
    the job go on; and between processes it exchanges a tensor, whatever else they are exchanging.
    """

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Remember the handler."""
        self._handler = signal.getsignal(signal.SIGTERM)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Put it back in its place."""
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self._handler)
