"""What a run that fails leaves: the error of the process that failed first."""

import os
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning as L

from fglight.errors import FglightError, ProcessError
from fglight.runs.folder import FAILURE, failure, modified, write_json


class FirstFailure(L.Callback):
    """Writes ``failure.json``, in the first process of several that fails.

    The others then fail, too, of a connection that is closed, which tells nobody why.

    Args:
        run_dir: the run's directory, as the first process knows it.
        run: what ``failure.json`` says of the run.
    """

    def __init__(self, run_dir: Path, run: Mapping[str, Any]) -> None:
        self.run_dir = run_dir
        self.run = run
        self._before: int | None = None
        self._known = False

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Take the first process's folder; the others need not know where it is."""
        self.run_dir = trainer.strategy.broadcast(self.run_dir)
        self._before = self._changed()
        self._known = True

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Write what happened, unless another process did and this is what came of it."""
        alone = trainer.world_size == 1  # whose error is put in better words before it is written
        if self._known and not alone and isinstance(exception, Exception) and not self._told(exception):
            self.write(exception)

    def check(self, error: Exception) -> None:
        """Raise what another process failed of, if an error came of that.

        Raises:
            ProcessError: as said.
        """
        if self._told(error):
            raise ProcessError(f"another process of the run failed: {failure(self.run_dir)}") from error

    def write(self, error: Exception) -> None:
        """Write ``failure.json``, with a traceback of what no setting explains."""
        found = {**self.run, "error": f"{type(error).__name__}: {error}"}
        if not isinstance(error, FglightError):
            found["traceback"] = "".join(traceback.format_exception(error))
        own = self.run_dir / f"failure-{os.getpid()}.json"  # another process may write at the same moment
        write_json(own, found)
        own.replace(self.run_dir / FAILURE)
        self._before = self._changed()

    def _told(self, error: Exception) -> bool:
        return self._known and self._changed() != self._before and not isinstance(error, FglightError)

    def _changed(self) -> int | None:
        return modified(self.run_dir / FAILURE)
