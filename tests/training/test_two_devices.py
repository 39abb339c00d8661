"""A run on two devices: its result, its end by a signal, and a process that dies."""

import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import torch
from forked import ROOT
from holding import PATH, held

from fglight.runs.folder import read_result


@contextmanager
def started(folder, epochs=4):
    """``train.py`` on two processes, which end with the block and wait after an epoch for a file ``go``.

    Its output goes to ``folder / "log"``.
    """
    settings = [
        "model.width=0.03125",
        f"trainer.max_epochs={epochs}",
        *held(epoch=1),
        "logger.mode=disabled",
        f"hydra.run.dir={folder / 'run'}",
    ]
    devices = ["trainer.devices=2", "trainer.accelerator=cpu", "trainer.enable_progress_bar=false"]
    choices = ["guess=gaussian", "perturb=activity"]
    with (folder / "log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, str(ROOT / "train.py"), *choices, *settings, *devices],
            cwd=folder,
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": PATH},
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def go_on(folder):
    (folder / "go").touch()


def run_to_the_end(folder):
    go_on(folder)
    with started(folder) as process:
        assert process.wait() == 0, (folder / "log").read_text()


def weights(folder):
    return torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]


def child_of(process):
    """The process that another one has started, once it is there."""
    while process.poll() is None:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        for child in map(int, children):
            if b"train.py" in Path(f"/proc/{child}/cmdline").read_bytes():
                return child
        time.sleep(0.1)
    raise AssertionError("no second process")


def wait_for_an_epoch(process, folder):
    metrics = folder / "run" / "metrics" / "version_0" / "metrics.csv"
    while not metrics.exists() or "test/loss" not in metrics.read_text():
        assert process.poll() is None, (folder / "log").read_text()
        time.sleep(0.05)


def wait_for_the_end(other):
    while Path(f"/proc/{other}").exists() and "Z (zombie)" not in Path(f"/proc/{other}/status").read_text():
        time.sleep(0.1)


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    run_to_the_end(folder)
    return folder / "run"


@pytest.mark.slow
def test_a_run_on_two_devices_ends_with_a_result(whole_run):
    result = read_result(whole_run)
    assert 0 < result["test_accuracy"] < 1
    assert result["epoch"] == 3


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks into /proc")
def test_sigterm_ends_both_processes(tmp_path):
    go_on(tmp_path)
    with started(tmp_path, epochs=1000) as process:
        other = child_of(process)
        wait_for_an_epoch(process, tmp_path)
        os.killpg(process.pid, signal.SIGTERM)  # the second one waits for the first one to end it
        assert process.wait() == 143
        wait_for_the_end(other)
    log = (tmp_path / "log").read_text()
    assert "Traceback" not in log
    assert log.count("Terminated") == 1
    assert log.endswith("; last checkpoint: run/checkpoints/last.ckpt\n")


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks into /proc")
@pytest.mark.parametrize("victim", ["first", "second"])
def test_a_process_that_dies_stops_the_other_and_the_run_goes_on_later(victim, tmp_path, whole_run):
    with started(tmp_path) as process:
        other = child_of(process)
        wait_for_an_epoch(process, tmp_path)
        os.kill(process.pid if victim == "first" else other, signal.SIGKILL)
        go_on(tmp_path)
        assert process.wait() != 0
        wait_for_the_end(other)
    assert read_result(tmp_path / "run") is None
    run_to_the_end(tmp_path)
    expected, actual = weights(whole_run), weights(tmp_path / "run")
    assert all(torch.equal(actual[name], value) for name, value in expected.items())
