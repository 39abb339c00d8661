"""Sweeps as users start them, on digits and very small networks."""

import importlib.util
import shutil
import subprocess
import time
from collections import namedtuple
from dataclasses import replace
from pathlib import Path

import pytest
from filelock import FileLock
from forked import ROOT, SMALL, ended, results, start_train_py, train_py, written
from holding import PATH, held
from omegaconf import OmegaConf

from fglight.errors import ConfigError, DataError, LauncherError
from fglight.runs.folder import write_json
from fglight.sweeps.progress import duration
from fglight.sweeps.request import Request
from fglight.sweeps.runner import Sweep
from hydra_plugins.fglight_sweeper import elsewhere

LOCAL_LEARNING = ("table=4", "guess=exact", "blocks=8", "aux=cnn,linear", "seeds=1", *SMALL)


def sweep(folder: Path, *overrides: str) -> subprocess.CompletedProcess:
    return train_py(folder, "-m", *overrides)


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """Two cells that ran, a third diverged, and a fourth was in use."""
    folder = tmp_path_factory.mktemp("swept")
    busy = folder / "multirun/cells/digits-8bw0.0625-local-exact-linear_data.batch_size=479,trainer.max_epochs=1/seed0"
    busy.mkdir(parents=True)
    with FileLock(busy / ".lock"):
        done = sweep(folder, *LOCAL_LEARNING[:-1], "logger.mode=offline", "optim.lr=1e30,0.04")
        first = sweep(folder, *LOCAL_LEARNING)
    return folder, done, first


def test_a_failing_cell_does_not_stop_the_others_and_the_exit_status_tells(swept):
    folder, done, _ = swept
    assert done.returncode == 1
    assert "2 of 4 runs finished, 2 failed" in done.stdout
    assert "no longer finite" in done.stdout
    assert "2 of 4 runs failed" in done.stderr
    assert "Traceback" not in done.stderr
    finished = [name for name in results(folder) if "lr=0.04" in name]
    assert len(finished) == 2


def test_a_line_for_each_run_tells_how_far_the_sweep_is(swept):
    _, done, _ = swept
    lines = [line for line in done.stdout.splitlines() if line.startswith("[")]
    assert len(lines) == 4
    assert "2 of 4 done, 2 failed, 0 running, 0 left]" in lines[-1]
    assert "to go" in lines[0]


def test_a_run_in_use_elsewhere_is_left_alone_and_told(swept):
    folder, _, first = swept
    assert first.returncode == 0
    assert "1 of 2 runs finished, 1 being run by another process, 0 failed" in first.stdout
    assert "being written by another process: skipped" in first.stdout
    assert "digits-8bw0.0625-local-exact-linear_data.batch_size=479,trainer.max_epochs=1/seed0" not in results(folder)


def test_the_same_command_skips_what_is_finished_and_starts_the_rest(swept):
    folder, _, _ = swept
    before = results(folder)
    again = sweep(folder, *LOCAL_LEARNING)
    assert again.returncode == 0
    assert "2 runs, 1 finished" in again.stdout
    assert "2 of 2 runs finished, 0 failed" in again.stdout
    after = results(folder)
    assert len(after) == len(before) + 1
    assert {name: after[name] for name in before} == before


def test_a_sweep_refuses_runs_with_other_settings(swept):
    folder, _, _ = swept
    cells = folder / "multirun" / "cells"
    config = next(path for path in cells.rglob("config.yaml") if "optim" not in str(path) and "cnn" in str(path))
    content = config.read_text()
    config.write_text(content.replace("weight_decay: 0.0005", "weight_decay: 0.1"))
    refused = sweep(folder, *LOCAL_LEARNING)
    config.write_text(content)
    assert refused.returncode == 1
    assert "optim.weight_decay=0.1 there, 0.0005 now" in refused.stderr.splitlines()[0]


def test_a_plan_starts_nothing(tmp_path):
    planned = sweep(tmp_path, *LOCAL_LEARNING, "plan=true")
    assert planned.returncode == 0, planned.stderr
    assert "2 cells, 2 runs, 2 of them to do: about" in planned.stdout
    assert list(tmp_path.iterdir()) == []


def test_the_plan_of_an_ordinary_sweep_starts_nothing(tmp_path):
    planned = sweep(tmp_path, "guess=gaussian,local", "seed=0,1", "plan=true", *SMALL)
    assert planned.returncode == 0, planned.stderr
    assert "2 configurations, 4 runs, 4 of them to do: about" in planned.stdout
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_is_told_in_one_line(tmp_path):
    for overrides, words in (
        (["table=13"], "table must be 2 or 3 or"),
        (["table=3", "guess=fixed_ntk"], "no cell of Table 3 has guess=fixed_ntk: guess must be exact or gaussian"),
        (["seeds=2", "guess=local,ntk"], "seeds=2 belongs to a sweep of tables, figures or studies"),
        (["table=3", "+foo=1"], "foo=1 is not possible, nothing reads it"),
        (["table=3", "guess=exact", "optim.foo=1"], "optim.foo=1 is not possible, nothing reads it"),
        (["guess=local,ntk", "trainer.max_epoch=3"], "trainer.max_epoch=3 is not possible, nothing reads it: did you"),
        (["guess=exact", "trainer.gradient_clip_val=0,1"], "trainer.gradient_clip_val must be null"),
    ):
        refused = sweep(tmp_path, *overrides)
        assert refused.returncode == 1
        assert any(line.startswith(words) for line in refused.stderr.splitlines()), refused.stderr
        assert "Traceback" not in refused.stderr
        assert not list(tmp_path.rglob("config.yaml"))  # of a run


def test_ordinary_sweeps_work_as_hydra_s_own(tmp_path):
    done = sweep(tmp_path, "guess=exact", "target=global,local", *SMALL)
    assert done.returncode == 0, done.stderr
    runs = [path.parent.name for path in tmp_path.glob("multirun/*/*/result.json")]
    assert sorted(runs) == ["0_digits-8bw0.0625-global-exact_seed0", "1_digits-8bw0.0625-local-exact-cnn_seed0"]


def test_a_search_ends_with_the_best(tmp_path):
    rates = sweep(tmp_path, "search=lr", "table=3", "guess=exact", "seeds=1", *SMALL, "optim.lr=0.05,0.01")
    assert rates.returncode == 0, rates.stderr
    assert "held-out accuracy in % by learning rate and step" in rates.stdout
    sizes = sweep(tmp_path, "search=aux_size", "aux=cnn", *SMALL, "aux.depth=1", "aux.hidden=1,4")
    assert sizes.returncode == 0, sizes.stderr
    assert "held-out accuracy by auxiliary size" in sizes.stdout
    assert "best under 10%" in sizes.stdout


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs the sweep extra")
def test_ray_runs_jobs_side_by_side_with_the_cores_shared_out(tmp_path):
    waiting = [*LOCAL_LEARNING, *held(epoch=0)]
    process = start_train_py(
        tmp_path, "-m", "hydra/launcher=ray", "hydra.launcher.ray.init.num_cpus=2", *waiting, PYTHONPATH=PATH
    )
    try:
        while len(list(tmp_path.glob("multirun/cells/*/seed0/config.yaml"))) < 2:  # no run ends before both have begun
            assert process.is_alive(), written(tmp_path)
            time.sleep(0.05)
        (tmp_path / "go").touch()
        done = ended(process, tmp_path)
    finally:
        process.kill()
    assert done.returncode == 0, done.stderr
    assert "2 of 2 runs finished, 0 failed" in done.stdout
    devices = [result["device"] for result in results(tmp_path).values()]
    assert len(devices) == 2
    assert all(device.endswith("1 threads") for device in devices)


def parts(tmp_path) -> dict:
    request = Request((3,), (), None, {"guess": ("exact",)}, ("digits",), (0,), {}, False)
    from fglight import load_config

    return {"request": request, "folder": tmp_path, "compose": load_config, "launch": pytest.fail, "serial": True}


def test_each_run_is_told_once_whatever_the_launcher_loses(tmp_path, capsys):
    """Of four runs one finishes, one fails, one goes on in a process of its own and one never starts."""

    def launch(overrides, number):
        assert (len(overrides), number) == (4, 0)
        write_json(folders[0] / "result.json", {"metric": "accuracy", "test_accuracy": 0.5, "time_s": 1})
        write_json(folders[1] / "failure.json", {"error": "it diverged"})
        raise RuntimeError("job 2 was killed\nand so on")

    asked = replace(parts(tmp_path)["request"], seeds=(0, 1, 2, 3))
    sweep = Sweep(**{**parts(tmp_path), "request": asked, "launch": launch, "serial": False})
    folders = [tmp_path / job.folder for job in sweep.jobs]
    for folder in folders:
        folder.mkdir(parents=True)
    write_json(folders[1] / "failure.json", {"error": "an old one"})
    with (
        FileLock(folders[2] / ".lock"),
        pytest.raises(LauncherError, match=r"gave up \(RuntimeError: job 2 was killed\)"),
    ):
        sweep.run()
    out = capsys.readouterr().out
    assert "4 runs, 0 finished, 1 to go on with" in out
    assert "1 of 4 runs failed" in out
    assert "it diverged" in out.splitlines()[-3]
    assert out.splitlines()[-1] == (
        "1 of 4 runs finished, 1 being run by another process, 1 failed, 1 left: the same command goes on from here"
    )


def test_a_full_disk_is_told_before_anything_starts(tmp_path, monkeypatch):
    usage = namedtuple("usage", ["total", "used", "free"])
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**9, 10**9 - 10**7, 10**7))
    with pytest.raises(ConfigError, match=r"0\.0 GB free, but the checkpoints of 1 run need about 0\.2 GB"):
        Sweep(**parts(tmp_path)).run()


def on(tmp_path, *data: str, **parts_of_sweep) -> Sweep:
    """A sweep over data sets, of which digits alone are there."""
    nowhere = {"data.root": (str(tmp_path / "nowhere"),)}
    asked = replace(parts(tmp_path)["request"], data=data, settings=nowhere, plan=parts_of_sweep.pop("plan", False))
    return Sweep(**{**parts(tmp_path), "folder": tmp_path / "runs", "request": asked, **parts_of_sweep})


def test_missing_files_are_told_once_before_anything_starts(tmp_path):
    sweep = on(tmp_path, "imagenet32", "digits")
    with pytest.raises(DataError) as error:
        sweep.run()
    said = str(error.value)
    assert said.count("ImageNet32: train_data_batch_1 is missing. Looked in: ") == 1
    assert said.endswith(">. Or leave imagenet32 out with data=digits.")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(DataError, match=r"Imagenet32_val>\.$"):
        on(tmp_path, "imagenet32").run()


def test_files_that_no_run_needs_or_that_are_elsewhere_are_not_missing(tmp_path):
    sweep = on(tmp_path, "imagenet32")
    finished = sweep.folder / sweep.jobs[0].folder
    finished.mkdir(parents=True)
    write_json(finished / "result.json", {"metric": "accuracy", "test_accuracy": 0.5, "time_s": 1})
    assert sweep.run() == 0
    started = []

    def launch(overrides, number):
        started.extend(overrides)
        return []

    on(tmp_path / "away", "imagenet32", launch=launch, here=False).run()
    assert len(started) == 1


def test_a_plan_tells_which_files_are_missing(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("fglight.sweeps.plan.show_plan", lambda *_: None)
    assert on(tmp_path, "imagenet32", plan=True).run() == 0
    (said,) = capsys.readouterr().out.splitlines()
    assert said.startswith("It would not start without files that are missing. ImageNet32: train_data_batch_1 is")


@pytest.mark.parametrize(
    ("launcher", "address", "away"),
    [("basic", None, False), ("submitit_slurm", None, True), ("ray", None, False), ("ray", "auto", True)],
)
def test_runs_on_other_machines_may_have_their_files_there(launcher, address, away, monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    chosen = {"runtime": {"choices": {"hydra/launcher": launcher}}, "launcher": {"ray": {"init": {"address": address}}}}
    assert elsewhere(OmegaConf.create({"hydra": chosen})) == away


def test_a_folder_that_cannot_be_written_is_told_before_anything_starts(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"^hydra\.sweep\.dir must be a folder that can be written to, .*file/runs "):
        Sweep(**parts(tmp_path / "file" / "runs")).run()


def test_launcher_configurations_share_out_gpus_and_cores():
    launchers = ROOT / "conf" / "hydra" / "launcher"
    ray = OmegaConf.load(launchers / "ray.yaml").ray
    assert ray.remote.num_cpus == 1
    assert OmegaConf.to_container(ray.remote)["num_gpus"] == "${gpus:}"
    slurm = OmegaConf.load(launchers / "submitit_slurm.yaml")
    assert "OMP_NUM_THREADS" in slurm.setup[0]
    assert slurm.max_num_timeout > 0


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
@pytest.mark.parametrize(("status", "reported"), [(0, True), (1, True), (130, False)])
def test_make_reports_what_is_there_and_tells_of_failed_runs(tmp_path, status, reported):
    python = tmp_path / "bin" / "python"
    python.parent.mkdir()
    python.write_text(f'#!/bin/sh\necho "ran $*"\n[ $1 != train.py ] || exit {status}\n')
    python.chmod(0o755)
    (tmp_path / ".ready").touch()
    for target, sweep, report in (
        ("table3", "table=3 seeds=1", " --table 3 --out reports/table3"),
        ("figure4", "figure=4 seeds=1", " --figure 4 --out reports/figure4"),
        ("tables", "table=all seeds=1", ""),
        ("figures", "figure=all seeds=1", ""),
        ("study-budget", "study=budget seeds=1", " --study budget --out reports/study-budget"),
        ("studies", "study=all seeds=1", ""),
    ):
        made = subprocess.run(
            ["make", "-C", ROOT, f"VENV={tmp_path}", target, "ARGS=seeds=1"], capture_output=True, text=True
        )
        assert (made.returncode != 0) == (status != 0)
        ran = [line for line in made.stdout.splitlines() if line.startswith("ran ")]
        assert ran == [f"ran train.py -m {sweep}", *([f"ran -m fglight report{report}"] if reported else [])]


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
def test_make_lists_what_it_runs():
    listed = subprocess.run(["make", "-C", ROOT, "help"], capture_output=True, text=True).stdout
    assert {"tables", "figures", "studies"} <= {line.split(" ")[0] for line in listed.splitlines()}


def test_durations_in_words():
    words = [duration(seconds) for seconds in (8.4, 300, 3 * 3600 + 1200, 2 * 86400 + 4 * 3600, 59.7)]
    assert words == ["8 s", "5 min", "3 h 20 min", "2 d 4 h", "1 min"]


def test_an_ordinary_sweep_refuses_components_that_do_not_go_together_before_it_starts(tmp_path):
    done = sweep(tmp_path, "guess=gaussian,ntk", "probe=true", *SMALL)
    assert done.returncode == 1
    assert "probe=true trains auxiliary networks" in done.stderr
    assert not list(tmp_path.rglob("config.yaml"))
