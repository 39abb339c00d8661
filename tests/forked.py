"""Processes that start at once: forked from a server that has imported what takes seconds, and safe to kill."""

import json
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parents[1]
SMALL = ("data=digits", "model.width=0.0625", "trainer.max_epochs=1", "data.batch_size=479", "logger.mode=disabled")
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["fglight.training.run", "fglight.sweeps.runner", "hydra", "sklearn.datasets"])


def train_py(folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    """Run ``train.py`` with arguments, in a folder and with one thread."""
    return ended(start_train_py(folder, *arguments), folder)


def start_train_py(
    folder: Path, *arguments: str, prepare: Callable[[], object] = str, **environment: str
) -> multiprocessing.Process:
    """Start ``train.py`` with arguments, in a folder and with one thread; first the process calls ``prepare``."""
    process = PROCESSES.Process(target=_train_py, args=(arguments, folder, prepare, environment))
    process.start()
    return process


def finish(process: multiprocessing.Process) -> None:
    """Wait for a process, however long it takes a busy machine: a test that hangs is ended, and its process here."""
    try:
        process.join()
    finally:
        process.kill()


def ended(process: multiprocessing.Process, folder: Path) -> subprocess.CompletedProcess:
    """Wait for a process that was started in a folder, and read what it wrote."""
    finish(process)
    return subprocess.CompletedProcess([], process.exitcode, *(path.read_text() for path in _outputs(folder)))


def _train_py(
    arguments: tuple[str, ...], folder: Path, prepare: Callable[[], object], environment: dict[str, str]
) -> None:
    redirect(folder)
    prepare()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell's background jobs ignore
    os.environ |= {"OMP_NUM_THREADS": "1", "COLUMNS": "200", **environment}
    sys.argv = [str(ROOT / "train.py"), *arguments]
    runpy.run_path(sys.argv[0], run_name="__main__")


def redirect(folder: Path) -> None:
    """Go to a folder, and let what this process writes go to files beside it."""
    for path, descriptor in zip(_outputs(folder), (1, 2)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), descriptor)
    os.chdir(folder)


def written(folder: Path) -> str:
    """What a process that was started in a folder has written to its error output so far."""
    return _outputs(folder)[1].read_text()


def _outputs(folder: Path) -> tuple[Path, Path]:
    return folder.parent / f"{folder.name}.out", folder.parent / f"{folder.name}.err"


def results(folder: Path) -> dict[str, dict]:
    cells = folder / "multirun" / "cells"
    return {str(path.parent.relative_to(cells)): json.loads(path.read_text()) for path in cells.rglob("result.json")}
