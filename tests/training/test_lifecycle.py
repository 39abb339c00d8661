"""Runs that other programs start and stop: directories of their own, SIGTERM, schedulers, W&B's environment."""

import importlib.util
import os
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path
from threading import Thread

import pytest
import wandb
from filelock import FileLock
from forked import PROCESSES, ended, redirect, start_train_py, train_py, written
from hydra.core.utils import setup_globals
from omegaconf import OmegaConf
from wandb.proto.wandb_internal_pb2 import Record

from fglight import load_config
from fglight.errors import ConfigError
from fglight.processes import Terminated, terminable
from fglight.runs.folder import State, make_directory, state
from fglight.training.loggers import build_loggers, finishing
from fglight.training.module import ForwardGradientModule
from fglight.training.run import train
from hydra_plugins.fglight_directory import RunDirectory

SMALL = ("model.width=0.125", "data.batch_size=479", "trainer.accelerator=cpu", "trainer.enable_progress_bar=false")
QUIET = "logger.mode=disabled"
LINE = "Terminated (SIGTERM)"


# Directories


def test_a_directory_that_is_taken_gets_a_number(tmp_path):
    made = []
    threads = [
        Thread(target=lambda: made.append(make_directory("x", tmp_path / "a" / "run", new=True))) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    names = {"run", *(f"run-{number}" for number in range(2, 9))}
    assert {path.name for path in made} == {path.name for path in (tmp_path / "a").iterdir()} == names
    assert make_directory("x", tmp_path / "a" / "run") == tmp_path / "a" / "run"


def test_the_other_processes_of_a_run_make_no_directory_of_its_time(tmp_path, monkeypatch):
    setup_globals()

    def chosen(name, **environment):
        for key in ("RANK", "LOCAL_RANK", "SLURM_PROCID"):
            monkeypatch.setenv(key, environment.get(key, "0"))
        config = OmegaConf.create({**load_config(), "hydra": {"run": {"dir": f"{tmp_path}/outputs/{name}"}}})
        RunDirectory().on_run_start(config)
        return Path(config.hydra.run.dir).relative_to(tmp_path).as_posix()

    timed = "${now:%Y}_run"
    year = time.strftime("%Y")
    assert chosen(timed) == f"outputs/{year}_run"
    assert chosen(timed) == f"outputs/{year}_run-2"
    assert chosen(timed, RANK="1", LOCAL_RANK="1") == "outputs"
    assert chosen(timed, SLURM_PROCID="1") == "outputs"
    assert chosen("mine") == chosen("mine") == chosen("mine", LOCAL_RANK="1") == "outputs/mine"


def test_runs_and_sweeps_of_the_same_time_go_to_directories_of_their_own(tmp_path):
    """The same year will do for the same second."""
    settings = (*SMALL, QUIET, "trainer.max_epochs=1", "guess=exact")
    year = time.strftime("%Y")
    for kind, arguments in (("run", []), ("sweep", ["-m"])):
        (tmp_path / kind / year).mkdir(parents=True)
        done = train_py(tmp_path, *arguments, *settings, f"hydra.{kind}.dir={kind}/${{now:%Y}}")
        assert done.returncode == 0, done.stderr
        (result,) = (tmp_path / kind).rglob("result.json")
        assert result.is_relative_to(tmp_path / kind / f"{year}-2")
        assert not list((tmp_path / kind / year).iterdir())


def test_a_directory_that_cannot_be_or_is_in_use_is_told_in_one_line(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "busy").mkdir()
    refusal = "must be a folder that can be written to, or a place for one, got"
    with FileLock(tmp_path / "busy" / ".lock"):
        for arguments, words in (
            (["hydra.run.dir=/proc/nope"], f"hydra.run.dir {refusal} /proc/nope (No such file or directory)"),
            (["hydra.run.dir=file"], f"hydra.run.dir {refusal} file (File exists)"),
            (["-m", "hydra.sweep.dir=file/x"], f"hydra.sweep.dir {refusal} file/x"),
            (["hydra.run.dir=busy"], "busy is being written by another process"),
        ):
            refused = train_py(tmp_path, *arguments, *SMALL, QUIET)
            assert refused.returncode == 1
            assert sum(line.startswith(words) for line in refused.stderr.splitlines()) == 1, refused.stderr
            assert "Traceback" not in refused.stderr
    assert [path.name for path in (tmp_path / "busy").iterdir()] == [".lock"]


# SIGTERM


def records(folder):
    """The records of the run that Weights & Biases has kept offline below a folder (a LevelDB log)."""
    (path,) = folder.rglob("*.wandb")
    data, at, whole = path.read_bytes(), 7, b""
    while at + 7 <= len(data):
        left = 32768 - at % 32768
        _, length, kind = struct.unpack("<IHB", data[at : at + 7]) if left >= 7 else (0, 0, 0)
        if kind == 0:
            at += left
            continue
        whole += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # a record in one piece, or its last one
            yield Record.FromString(whole)
            whole = b""


def tell_again():
    """Let another SIGTERM come once the first has this process finish its run on Weights & Biases."""
    finish = wandb.finish

    def told_again(**arguments):
        os.kill(os.getpid(), signal.SIGTERM)
        finish(**arguments)

    wandb.finish = told_again


def test_a_run_s_file_on_weights_and_biases_is_whole_while_the_process_goes_on(tmp_path):
    cfg = load_config(SMALL)
    with finishing(cfg):
        build_loggers(cfg, tmp_path)
    assert wandb.env.SERVICE not in os.environ  # the process that writes the file has ended
    assert [record.exit.exit_code for record in records(tmp_path) if record.HasField("exit")] == [0]


@pytest.mark.parametrize("kind", ["run", "sweep", "paper"])
def test_sigterm_ends_a_run_with_its_checkpoint_and_status_143(kind, tmp_path):
    arguments = {"run": [], "sweep": ["-m", "seed=0,1"], "paper": ["-m", "table=3", "seeds=1", "data=digits"]}[kind]
    settings = (*arguments, *SMALL, "trainer.max_epochs=1000")
    process = start_train_py(tmp_path, *settings, prepare=tell_again, WANDB_RUN_ID="given")
    try:
        # until an epoch is done
        while not (list(tmp_path.rglob("last.ckpt")) and any(path.stat().st_size for path in tmp_path.rglob("*.csv"))):
            assert process.is_alive(), written(tmp_path)
            time.sleep(0.05)
        os.kill(process.pid, signal.SIGTERM)
        done = ended(process, tmp_path)
    finally:
        process.kill()
    assert done.returncode == 143
    (checkpoint,) = tmp_path.rglob("last.ckpt")
    assert [line for line in done.stderr.splitlines() if line] == [
        f"{LINE}; last checkpoint: {checkpoint.relative_to(tmp_path)}"
    ]
    assert state(checkpoint.parents[1]) is State.INTERRUPTED
    logged = list(records(tmp_path))
    assert [record.exit.exit_code for record in logged if record.HasField("exit")] == [1]
    # A run of a sweep has an id of its own.
    ids = {record.run.run_id for record in logged if record.HasField("run")}
    assert (ids == {"given"}) == (kind == "run")
    if kind == "paper":
        assert "0 of 17 runs finished, 0 failed, 17 left" in done.stdout


def test_sigterm_while_python_imports_ends_it_at_once():
    code = "import os, signal; from fglight import processes; processes.begin(); os.kill(os.getpid(), signal.SIGTERM)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (143, f"{LINE} before anything was started\n")
    # A process that Lightning started is ended by the first one.
    code += "; print('went on')"
    child = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, "LOCAL_RANK": "1"}
    )
    assert (child.returncode, child.stdout, child.stderr) == (0, "went on\n", "")


def test_sigterm_before_training_leaves_an_interrupted_run(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("fglight.training.run.build_data", lambda _: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(Terminated) as stop:
        train(load_config([*SMALL, QUIET]), tmp_path)
    assert stop.value.code == 143
    assert capsys.readouterr().err == f"{LINE} before the first checkpoint\n"
    assert state(tmp_path) is State.INTERRUPTED


def test_what_comes_up_after_sigterm_changes_nothing(capsys):
    def lose_a_worker():
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        finally:
            os.kill(os.getpid(), signal.SIGTERM)  # a second one does not disturb
            raise RuntimeError("DataLoader worker is killed by signal: Terminated.")

    with pytest.raises(Terminated), terminable(), terminable(lambda: "; inner"):
        lose_a_worker()
    assert capsys.readouterr().err == f"{LINE}; inner\n"
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_other_errors_and_other_handlers_stay(monkeypatch):
    with pytest.raises(ValueError, match="as it was"), terminable():
        raise ValueError("as it was")
    seen = []
    before = signal.signal(signal.SIGTERM, lambda *_: seen.append(1))
    try:
        with terminable():
            os.kill(os.getpid(), signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert seen == [1]


# SLURM

SLURM = {
    "SLURM_NTASKS": "1",
    "SLURM_NTASKS_PER_NODE": "1",
    "SLURM_JOB_NAME": "fglight",
    "SLURM_JOB_ID": "123",
    "SLURM_PROCID": "0",
    "SLURM_LOCALID": "0",
    "SLURM_NODEID": "0",
}


def in_slurm(folder, signals, by_submitit):
    """Train as a job of SLURM, which gets signals at some steps; ``scontrol`` writes down what it was asked."""
    redirect(folder)
    scontrol = folder / "scontrol"
    scontrol.write_text(f'#!/bin/sh\necho "$@" >> {folder}/asked\n')
    scontrol.chmod(0o755)
    os.environ |= {**SLURM, "PATH": f"{folder}:{os.environ['PATH']}"}
    if by_submitit:
        handle_as_submitit(folder)
    original, steps = ForwardGradientModule.training_step, 0

    def step(*arguments):
        nonlocal steps
        steps += 1
        (folder / "steps").write_text(str(steps))
        if steps in signals:
            os.kill(os.getpid(), signals[steps])
        return original(*arguments)

    ForwardGradientModule.training_step = step
    train(load_config([*SMALL, QUIET, "trainer.max_epochs=4"]), folder / "run")


def handle_as_submitit(folder):
    """The handlers that submitit's processes have."""
    from submitit.core.utils import DelayedSubmission, JobPaths
    from submitit.helpers import Checkpointable
    from submitit.slurm.slurm import SlurmJobEnvironment

    class Job(Checkpointable):
        def __call__(self):
            pass

    job = DelayedSubmission(Job())
    job.set_timeout(1, 3)
    SlurmJobEnvironment()._handle_signals(JobPaths(folder, "123"), job)


@pytest.mark.skipif(importlib.util.find_spec("submitit") is None, reason="needs the sweep extra")
def test_a_job_of_submitit_goes_on_after_sigterm_until_it_is_queued_again(tmp_path):
    signals = {2: signal.SIGTERM, 8: signal.SIGUSR2}
    job = PROCESSES.Process(target=in_slurm, args=(tmp_path, signals, True))
    job.start()
    done = ended(job, tmp_path)
    assert (tmp_path / "steps").read_text() == "8", done.stderr
    assert (tmp_path / "asked").read_text() == "requeue 123\n"
    assert state(tmp_path / "run") is State.INTERRUPTED
    assert LINE not in done.stderr
    assert done.returncode == 255  # submitit's


def test_lightning_queues_a_job_again_and_sigterm_then_ends_it(tmp_path):
    signals = {2: signal.SIGUSR1, 5: signal.SIGTERM}
    job = PROCESSES.Process(target=in_slurm, args=(tmp_path, signals, False))
    job.start()
    done = ended(job, tmp_path)
    assert (tmp_path / "steps").read_text() == "5", done.stderr
    assert (tmp_path / "asked").read_text() == "requeue 123\n"
    assert (tmp_path / "run" / "hpc_ckpt_1.ckpt").exists()
    assert done.returncode == 143
    assert LINE in done.stderr


# Weights & Biases


def test_wandb_s_id_in_the_environment_is_that_of_one_new_run(tmp_path, monkeypatch):
    ids = []

    def init(**arguments):
        ids.append(arguments["id"])
        (arguments["dir"] / "wandb" / f"offline-run-20260101_000000-{arguments['id']}").mkdir(parents=True)
        raise wandb.errors.UsageError("enough")

    monkeypatch.setattr(wandb, "init", init)
    for run, mode, wandb_id, given in (
        ("first", "offline", None, "given"),  # as asked for
        ("second", "offline", None, "given"),  # a run beside it has it
        ("third", "online", "stored", "new"),  # a run that goes on
        ("fourth", "offline", None, None),
        ("first", "offline", "given", "new"),  # a second part
    ):
        cfg = load_config([f"logger.mode={mode}"])
        if given:
            monkeypatch.setenv("WANDB_RUN_ID", given)
        else:
            monkeypatch.delenv("WANDB_RUN_ID", raising=False)
        with pytest.raises(ConfigError, match=r"Weights & Biases refuses the run \(enough\)"):
            build_loggers(cfg, tmp_path / run, wandb_id)
    assert (ids[0], ids[2]) == ("given", "stored")
    assert len(set(ids)) == 5
    assert "new" not in ids
    assert "WANDB_RUN_ID" not in os.environ


@pytest.mark.parametrize("modes", [("offline", "offline"), ("offline", "online"), ("online", "offline")])
def test_parts_of_a_run_of_which_one_is_offline_have_ids_of_their_own(modes, tmp_path, monkeypatch):
    """Syncing the second of two parts of one id would put it in the place of the first."""
    given = []

    def init(**arguments):
        given.append(arguments)
        folder = f"{'offline-' * (arguments['mode'] == 'offline')}run-20260101_000000-{arguments['id']}"
        (arguments["dir"] / "wandb" / folder).mkdir(parents=True)
        raise wandb.errors.UsageError("enough")

    monkeypatch.setattr(wandb, "init", init)
    for mode in modes:
        with pytest.raises(ConfigError):
            build_loggers(load_config([f"logger.mode={mode}"]), tmp_path, given[0]["id"] if given else None)
    first, second = given
    assert first["id"] != second["id"]
    assert second["resume"] is None
    assert "continues" not in first["config"]
    assert second["config"]["continues"] == first["id"]


def test_wandb_s_mode_in_the_environment_counts_where_none_is_given(monkeypatch):
    monkeypatch.delenv("WANDB_MODE", raising=False)
    assert load_config().logger.mode == "offline"
    monkeypatch.setenv("WANDB_MODE", "online")
    assert load_config().logger.mode == "online"
    assert load_config(["logger.mode=disabled"]).logger.mode == "disabled"
    monkeypatch.setenv("WANDB_MODE", "shared")
    with pytest.raises(ConfigError, match=r"logger\.mode must be .*WANDB_MODE.*, got shared"):
        load_config()


@pytest.mark.parametrize("value", ["fine", 2026, "x" * 64, "x" * 65, "x" * 129, "", "a/b", "50%", "a b", None])
@pytest.mark.parametrize("setting", ["tags", "project"])
def test_what_wandb_refuses_is_told_before_anything_starts(setting, value):
    overrides = [f"logger.project={'null' if value is None else repr(value)}"]
    if setting == "tags":
        overrides = [f"logger.tags=[{'null' if value is None else repr(value)}]"]
    try:
        if setting == "tags" and value is None:
            raise ValueError("the string None is no tag")
        wandb.Settings(**({"run_tags": [str(value)]} if setting == "tags" else {"project": value and str(value)}))
    except (ValueError, wandb.Error):
        with pytest.raises(ConfigError, match=rf"logger\.{setting} must be "):
            load_config(overrides)
    else:
        longer = setting == "tags" and len(str(value)) > 64  # wandb 0.20 takes any
        if value != "" and not longer:
            load_config(overrides)


def test_tags_are_a_list_and_so_are_the_names_of_components():
    with pytest.raises(ConfigError, match=r"logger\.tags must be a list .*, got mine"):
        load_config(["logger.tags=mine"])
    with pytest.raises(ConfigError, match=r"data\.name must be a name of 1 to 64 .*, got x+"):
        load_config([f"data.name={'x' * 65}"])
