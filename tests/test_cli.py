"""The command line, run for real: what a run leaves, sweeps, and how it says that something is wrong."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from forked import ended, start_train_py, train_py, written
from image_files import DEBIAN, write_cifar10, write_imagenet32
from omegaconf import OmegaConf

import fglight.train
from fglight.config.settings import choices

TRAIN = Path(__file__).parents[1] / "train.py"
TINY = ["model.width=0.015625", "trainer.accelerator=cpu", "trainer.max_epochs=1"]
FEW_BATCHES = ["+trainer.limit_train_batches=3", "+trainer.limit_val_batches=2"]
QUIET = ["logger.mode=disabled", "trainer.enable_progress_bar=false"]


def run(folder, *overrides):
    """Run ``train.py`` to its end, as a shell does: ``(exit status, standard output, standard error)``."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("WANDB_", "HYDRA_", "FGLIGHT_"))}
    environment |= {"OMP_NUM_THREADS": "1", "COLUMNS": "200"}
    command = [sys.executable, TRAIN, *overrides]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    return done.returncode, done.stdout, done.stderr


def check_run(folder, epochs=1, **cell):
    """The run directory is complete and holds a run of this cell; returns its ``result.json``."""
    result = json.loads((folder / "result.json").read_text())
    assert {key: result["cell"][key] for key in cell} == cell
    assert result["epoch"] == epochs - 1
    assert 0 <= result["test_accuracy"] <= 1
    assert result["test_loss"] > 0
    assert result["time_s"] > 0
    assert {"python", "torch", "lightning", "fglight"} <= result["versions"].keys()

    config = OmegaConf.load(folder / "config.yaml")
    assert config.optim.lr == result["recipe"]["lr"]
    assert config.seed == result["seed"]
    assert "${" not in (folder / "config.yaml").read_text()

    checkpoint = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    assert checkpoint["global_step"] > 0
    assert all(value.isfinite().all() for value in checkpoint["state_dict"].values())

    (metrics,) = (folder / "metrics").rglob("metrics.csv")
    with metrics.open(newline="") as file:
        rows = list(csv.DictReader(file))
    accuracies = [float(row["test/accuracy"]) for row in rows if row.get("test/accuracy")]
    assert len(accuracies) == epochs
    assert accuracies[-1] == pytest.approx(result["test_accuracy"], rel=1e-5)
    assert not list(folder.rglob("*.tmp"))
    return result


def test_a_run_on_digits(tmp_path):
    status, out, err = run(tmp_path, "model.width=0.0625", *TINY[1:2], "trainer.max_epochs=2", "hydra.run.dir=run")
    assert status == 0, err
    result = check_run(tmp_path / "run", epochs=2, data="digits", target="global", guess="local", perturb="weight")
    assert result["seed"] == 0
    assert f"{100 * result['test_accuracy']:.1f} %" in out  # the summary at the end
    assert "learning rate" in out
    assert out.splitlines()[-4:] == ["next:", *(f"  fglight {command} run" for command in ("show", "report", "eval"))]
    assert out.splitlines()[-6].split()[-2] == "run"  # its directory

    (offline,) = (tmp_path / "run").rglob("offline-run-*")
    (record,) = offline.glob("*.wandb")
    content = record.read_bytes()
    config = OmegaConf.load(tmp_path / "run" / "config.yaml")
    for group in ("target", "guess", "perturb", "aux", "model", "data"):
        assert config[group]._target_.encode() in content
    for setting in (b"weight_decay", b"gamma", b"batch_size", b"max_epochs", b"precision"):
        assert setting in content
    assert str(config.logger.name).encode() in content
    assert str(config.logger.group).encode() in content


def test_a_sweep_over_small_files_of_cifar10(tmp_path):
    write_cifar10(tmp_path / "data")
    done = train_py(
        tmp_path,
        "data=cifar10",
        "data.root=data",
        "data.download=false",
        "guess=local,gaussian",
        "seed=0,1",
        *TINY,
        *QUIET,
        "-m",
    )
    assert done.returncode == 0, done.stderr
    folders = [path.parent for path in (tmp_path / "multirun").rglob("result.json")]
    results = [check_run(folder, data="cifar10") for folder in folders]
    done = {(result["cell"]["guess"], result["seed"]) for result in results}
    assert done == {(guess, seed) for guess in ("local", "gaussian") for seed in (0, 1)}
    assert len(folders) == 4
    assert all(result["cell"]["guess"] in folder.name for result, folder in zip(results, folders))


def test_runs_on_small_files_of_imagenet32_and_on_fashion_mnist(tmp_path):
    """Fashion-MNIST only where Debian's package of it is installed."""
    data = ["imagenet32", "fashion_mnist"] if Path(DEBIAN).exists() else ["imagenet32"]
    write_imagenet32(tmp_path / "data", tmp_path / "data")
    settings = ["data.root=data", "data.download=false", "data.batch_size=10", *FEW_BATCHES]
    done = train_py(tmp_path, f"data={','.join(data)}", *settings, *TINY, *QUIET, "hydra.sweep.dir=runs", "-m")
    assert done.returncode == 0, done.stderr
    folders = [path.parent for path in (tmp_path / "runs").rglob("result.json")]
    assert sorted(check_run(folder)["cell"]["data"] for folder in folders) == sorted(data)


# What is wrong, and all that the message has to name.
WRONG = {
    "choice": (["guess=locl"], ["guess must be one of", "exact", "gaussian", "got locl: did you mean local?"]),
    "no choice": (["data=null"], ["data=null", "digits", "cifar10"]),
    "value": (["model.width=0.001"], ["model.width must be", "1/64", "got 0.001"]),
    "type": (["model.width=wide"], ["model.width must be", "1/64", "got wide"]),
    "data": (["data=cifar10", "data.root=empty", "data.download=false"], ["data_batch_1", "empty", "data.root"]),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_said_without_a_traceback(name, tmp_path):
    overrides, words = WRONG[name]
    (tmp_path / "empty").mkdir()
    refused = train_py(tmp_path, *overrides, *QUIET)
    message = refused.stderr
    assert refused.returncode != 0
    assert "Traceback" not in message
    assert all(word in message for word in words), message
    assert not any(said in message for said in ("Error executing job", "HYDRA_FULL_ERROR"))
    lines = [line for line in message.splitlines() if all(word in line for word in words)]
    assert len(lines) == 1  # says it all
    assert not list(tmp_path.rglob("result.json"))


def test_a_setting_that_means_nothing_is_told_in_one_line_and_nothing_is_started(tmp_path):
    for overrides, words in (
        (["optimizer.lr=0.1"], "optimizer.lr=0.1 is not possible, nothing reads it: did you mean optim.lr?"),
        (["model.widht=0.5"], "model.widht=0.5 is not possible, nothing reads it: did you mean model.width?"),
        (["+trainer.gradient_clip_val=1.0"], "trainer.gradient_clip_val must be null"),
        (["trainer.limit_val_batches=0"], "trainer.limit_val_batches must be a number of"),
        (["guess==local"], "guess==local cannot be read"),
    ):
        refused = train_py(tmp_path, *overrides, *QUIET)
        assert refused.returncode == 1
        assert sum(line.startswith(words) for line in refused.stderr.splitlines()) == 1, refused.stderr
        assert "Traceback" not in refused.stderr
        assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_an_interrupted_run_leaves_a_checkpoint(tmp_path):
    overrides = [*TINY[:2], "trainer.max_epochs=1000", *QUIET, "hydra.run.dir=run"]
    checkpoint = tmp_path / "run" / "checkpoints" / "last.ckpt"
    process = start_train_py(tmp_path, *overrides)
    try:
        # until the second epoch is done, for the first one is kept when the second begins
        while not any(len(path.read_text().splitlines()) > 3 for path in tmp_path.rglob("metrics.csv")):
            assert process.is_alive(), written(tmp_path)
            time.sleep(0.05)
        os.kill(process.pid, signal.SIGINT)
        done = ended(process, tmp_path)
    finally:
        process.kill()
    assert done.returncode not in (0, -signal.SIGKILL)
    assert "Traceback" not in done.stdout + done.stderr
    assert "hydra.run.dir=run goes on behind epoch" in done.stderr
    saved = torch.load(checkpoint, weights_only=True)
    assert all(value.isfinite().all() for value in saved["state_dict"].values())
    assert not (tmp_path / "run" / "result.json").exists()


def test_overrides_may_stand_on_both_sides_of_every_option(tmp_path, monkeypatch):
    seen = {}
    monkeypatch.setattr(
        fglight.train, "_run_hydra", lambda **given: seen.update(vars(given["args"]), first=given["config_path"])
    )
    for options in (
        ["-m"],
        ["--multirun"],
        ["--run"],
        ["--config-dir", str(tmp_path)],
        ["-cd", str(tmp_path)],
        ["--config-name=config"],
        ["--cfg", "job"],
        ["-c", "job", "--package", "model", "--resolve"],
        ["--info"],
        ["-i"],
        ["--info", "plugins"],
        ["-m", "--config-dir", str(tmp_path)],
    ):
        lines = [
            ["model=mlp", *options, "guess=dfa", "seed=1"],
            [*options, "model=mlp", "guess=dfa", "seed=1"],
            ["model=mlp", "guess=dfa", "seed=1", *options],
        ]
        found = []
        for line in lines:
            assert fglight.train.main(line) == 0
            found.append(dict(seen))
        assert found[0] == found[1] == found[2]
        assert found[0]["overrides"] == ["model=mlp", "guess=dfa", "seed=1"]
    assert (found[0]["multirun"], found[0]["first"]) == (True, str(tmp_path))


def test_hidden_files_and_folders_are_no_choices(tmp_path, capsys, monkeypatch):
    for name in ("mine.yaml", "._mine.yaml", ".ipynb_checkpoints/mine-checkpoint.yaml"):
        (tmp_path / "guess" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "guess" / name).write_text("name: mine")
    with pytest.raises(SystemExit):
        fglight.train.main(["--config-dir", str(tmp_path), "--help"])
    assert " low_rank, mine, mixing," in capsys.readouterr().out.split("\nguess:")[1].split("\n")[0]
    monkeypatch.setattr("fglight.config.settings.CONFIG_DIR", tmp_path)
    assert choices.__wrapped__("guess") == {"mine": {"name": "mine"}}


def test_options_that_do_not_go_together_are_told_in_one_line(capsys):
    with pytest.raises(SystemExit):
        fglight.train.main(["-m", "-r"])
    assert "error: Only one of --run, --multirun" in capsys.readouterr().err


def test_several_devices_and_a_sweep_are_refused_together(tmp_path):
    done = train_py(tmp_path, "trainer.devices=2", "trainer.accelerator=cpu", "seed=0,1", *QUIET, "-m")
    assert done.returncode != 0
    assert "trainer.devices must be 1 with -m" in done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
