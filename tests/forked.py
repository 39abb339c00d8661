"""Processes that start at once: forked from a server that has imported what takes seconds, and safe to kill."""

import multiprocessing
import os
import runpy
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["fglight.training", "fglight.sweeps.runner", "hydra", "sklearn.datasets"])


def train_py(folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    """Run ``train.py`` with arguments, in a folder and with one thread."""
    out, err = folder.parent / f"{folder.name}.out", folder.parent / f"{folder.name}.err"
    process = PROCESSES.Process(target=_train_py, args=(arguments, folder, out, err))
    process.start()
    process.join(200)
    assert process.exitcode is not None, "still running"
    return subprocess.CompletedProcess(arguments, process.exitcode, out.read_text(), err.read_text())


def _train_py(arguments: tuple[str, ...], folder: Path, out: Path, err: Path) -> None:
    os.chdir(folder)
    os.environ |= {"OMP_NUM_THREADS": "1", "COLUMNS": "200"}
    for path, descriptor in ((out, 1), (err, 2)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), descriptor)
    sys.argv = [str(ROOT / "train.py"), *arguments]
    runpy.run_path(sys.argv[0], run_name="__main__")
