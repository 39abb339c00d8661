"""Interrupted runs go on and end as if nothing had happened, bit for bit."""

import csv
import json
import os
import random
import shutil
import signal
import time
from pathlib import Path

import pytest
import torch
import yaml
from filelock import FileLock
from forked import PROCESSES, finish
from omegaconf import OmegaConf

from fglight import load_config
from fglight.config.settings import SWEEP_SETTINGS
from fglight.errors import ConfigError, NonFiniteLossError, RunBusyError
from fglight.runs import folder
from fglight.runs.folder import State, state
from fglight.runs.settings import run_settings
from fglight.training import run
from fglight.training.checkpoint import LastCheckpoint
from fglight.training.module import ForwardGradientModule
from fglight.training.run import train

SMALL = (
    "model.width=0.0625",
    "data.batch_size=240",
    "data.holdout=0.5",
    "data.augment=true",
    "trainer.max_epochs=3",
    "trainer.log_every_n_steps=1",
    "trainer.enable_progress_bar=false",
    "trainer.accelerator=cpu",
    "logger.mode=disabled",
)
STEPS = 3
"""Steps an epoch."""
KINDS = {
    "local": ["guess=local", "perturb=weight", "aux=cnn"],
    "ntk": ["guess=ntk", "perturb=activity", "aux=mlp"],
    "fixed_ntk": ["guess=fixed_ntk", "perturb=weight", "aux=linear"],
    "gaussian": ["guess=gaussian", "perturb=activity"],
    "rademacher": ["target=local", "guess=rademacher", "perturb=weight", "aux=linear"],
    "exact": ["target=local", "guess=exact", "aux=predsim"],
    "adam": ["optim=adam", "scheduler=cosine", "scheduler.interval=step", "scheduler.T_max=6", "clip_norm=0.1"],
    "gaussian with all that lasts": [
        "guess=gaussian",
        "perturb=weight",
        "probe=true",
        "optim=adamw",
        "scheduler=cosine",
        "scheduler.interval=step",
        "scheduler.T_max=6",
        "clip_norm=0.1",
    ],
    "dfa": ["guess=dfa", "perturb=activity"],
    "momentum": ["guess=momentum", "guess.noise=0.5", "perturb=weight"],
    "adamw": ["guess=gaussian", "optim=adamw", "scheduler.interval=step", "scheduler.gamma=0.8"],
    "guided": ["guess=guided", "perturb=weight_per_sample", "aux=linear"],
    "low_rank": [
        "guess=low_rank",
        "guess.directions=2",
        "guess.combine=span",
        "guess.rescale=true",
        "perturb=activity",
    ],
    "several": ["guess=local", "guess.combine=max", "aux=several", "aux.scale=0.25"],
    "intermediate": ["target=intermediate", "guess=local", "perturb=weight", "aux=mlp"],
    "stale": [
        "guess=local",
        "perturb=weight",
        "perturb.coefficient=stale:4",
        "aux=linear",
        "optim.block_lr=0.02",
        "scheduler.warmup=6",
        "trainer.max_forwards=26",
    ],
}
QUICK = ("gaussian with all that lasts", "ntk", "stale")
"""Kinds that stand for the others: random directions, auxiliaries drawn anew, an optimizer, a schedule and coefficients
that keep."""


def config(*overrides):
    other = any(text.startswith("scheduler=") for text in overrides)
    return load_config([*SMALL, *([] if other else ["scheduler.step_size=1"]), *overrides])


def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)


def die_at(where: str, count: int) -> None:
    """Arrange that this process is killed at the count-th time that it comes to a place."""
    torch.set_num_threads(1)
    seen = 0

    def patch(owner, name, before):
        original = getattr(owner, name)

        def patched(*arguments, **options):
            nonlocal seen
            seen += 1
            if seen == count:
                before(*arguments)
            return original(*arguments, **options)

        setattr(owner, name, patched)

    def leave_half(self, trainer, _module):
        original = trainer.save_checkpoint

        def half(path):
            original(path)
            whole = Path(path).read_bytes()
            Path(path).write_bytes(whole[: len(whole) // 2])
            die()

        trainer.save_checkpoint = half

    def leave_half_json(path, content):
        path.with_name(f"{path.name}.tmp").write_text(json.dumps(content)[:50])
        die()

    places = {
        "step": (ForwardGradientModule, "training_step", die),
        "validation": (ForwardGradientModule, "validation_step", die),
        "checkpoint": (LastCheckpoint, "on_train_epoch_end", leave_half),
        "commit": (LastCheckpoint, "_commit", die),
        "result": (run, "write_json", leave_half_json),
        "config": (folder, "write_whole", die),
    }
    patch(*places[where])


def run_and_die(overrides: list[str], folder: Path, where: str, count: int) -> None:
    die_at(where, count)
    train(config(*overrides), folder)


def killed(overrides: list[str], folder: Path, where: str, count: int) -> None:
    process = PROCESSES.Process(target=run_and_die, args=(overrides, folder, where, count))
    process.start()
    finish(process)
    assert process.exitcode == -signal.SIGKILL, f"not killed at {where} {count}"


def weights(folder: Path) -> dict:
    content = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    (optimizer,) = content["optimizer_states"]
    tensors = {f"{name} {key}": value for key, state in optimizer["state"].items() for name, value in state.items()}
    return {**content["state_dict"], **tensors, "schedule": content["lr_schedulers"]}


def metrics(folder: Path) -> dict:
    """Logged values by step; a later version's hold from its first step on."""
    rows: list[dict[str, str]] = []
    versions = sorted(folder.glob("metrics/version_*/metrics.csv"), key=lambda path: int(path.parent.name[8:]))
    for path in versions:
        new = list(csv.DictReader(path.read_text().splitlines()))
        if new:
            rows = [row for row in rows if int(row["step"]) < int(new[0]["step"])] + new
    return {(row["step"], key): value for row in rows for key, value in row.items() if value}


def outcome(folder: Path) -> dict:
    result = json.loads((folder / "result.json").read_text())
    return {key: value for key, value in result.items() if key != "time_s"}


def assert_same(folder: Path, expected: Path) -> None:
    ours, theirs = weights(folder), weights(expected)
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        same = torch.equal(ours[name], value) if isinstance(value, torch.Tensor) else ours[name] == value
        assert same, name
    assert metrics(folder) == metrics(expected)
    assert outcome(folder) == outcome(expected)


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # the killed processes have one as well: sums depend on it
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run of the default cell that was never interrupted."""
    folder = tmp_path_factory.mktemp("whole")
    torch.set_num_threads(1)
    train(config(), folder)
    return folder


@pytest.mark.parametrize(
    "kind", [kind if kind in QUICK else pytest.param(kind, marks=pytest.mark.slow) for kind in KINDS]
)
def test_a_run_killed_at_a_random_step_ends_like_a_whole_one(kind, tmp_path):
    overrides = [*KINDS[kind], "trainer.max_epochs=2"]
    train(config(*overrides), tmp_path / "whole")
    folder = tmp_path / "killed"
    killed(overrides, folder, "step", random.Random(kind).randint(STEPS + 1, 2 * STEPS))
    assert state(folder) is State.INTERRUPTED
    train(config(*overrides), folder)
    assert_same(folder, tmp_path / "whole")
    with (folder / "metrics" / "version_1" / "metrics.csv").open() as lines:
        assert int(next(csv.DictReader(lines))["step"]) >= STEPS  # it went on, rather than start over


PLACES = [("checkpoint", 3), ("commit", 3), ("result", 1)]
RARER = [("config", 1), ("step", 1), ("validation", 1), ("checkpoint", 1), ("commit", 1), ("commit", 5)]


@pytest.mark.parametrize(
    ("where", "count"), [*PLACES, *(pytest.param(*place, marks=pytest.mark.slow) for place in RARER)]
)
def test_a_run_killed_while_it_writes_ends_like_a_whole_one(where, count, tmp_path, whole):
    killed([], tmp_path, where, count)
    train(config(), tmp_path)
    assert_same(tmp_path, whole)
    assert not list(tmp_path.glob("*.tmp"))


@pytest.mark.slow
def test_a_run_killed_again_and_again_ends_like_a_whole_one(tmp_path, whole):
    for where, count in (("step", 5), ("validation", 2), ("step", 2), ("result", 1)):
        killed([], tmp_path, where, count)
    train(config(), tmp_path)
    assert_same(tmp_path, whole)


@pytest.mark.slow
@pytest.mark.parametrize("option", ["max_steps=5", "limit_train_batches=2"])
def test_a_shortened_run_that_is_killed_ends_like_a_whole_one(option, tmp_path):
    overrides = [f"trainer.{option}", "guess=exact"]
    train(config(*overrides), tmp_path / "whole")
    for where, count in (("step", 4), ("result", 1)):
        killed(overrides, tmp_path / where, where, count)
        train(config(*overrides), tmp_path / where)
        assert_same(tmp_path / where, tmp_path / "whole")


@pytest.mark.slow
def test_a_run_that_a_callback_stops_is_killed_and_stops_where_a_whole_one_does(tmp_path):
    settings = ("patience=1", "min_delta=100")  # no epoch is so much better than the first
    overrides = ["callbacks=early_stopping", "guess=exact", *(f"callbacks.early_stopping.{each}" for each in settings)]
    result = train(config(*overrides), tmp_path / "whole")
    assert (result["epoch"], result["steps"]) == (1, 2 * STEPS)  # of three epochs
    for where, count in (("step", STEPS + 2), ("commit", 3), ("result", 1)):
        killed(overrides, tmp_path / where, where, count)
        assert state(tmp_path / where) is State.INTERRUPTED
        train(config(*overrides), tmp_path / where)
        assert_same(tmp_path / where, tmp_path / "whole")


def test_a_run_that_is_killed_when_its_time_is_up_is_not_trained_further(tmp_path):
    overrides = ["trainer.max_time=00:00:00:01", "trainer.max_epochs=10000", "guess=exact"]
    killed(overrides, tmp_path, "result", 1)
    before = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    result = train(config(*overrides), tmp_path)
    assert result["steps"] == before["global_step"]
    assert result["epoch"] == (result["steps"] - 1) // STEPS


@pytest.mark.slow
def test_a_run_killed_from_outside_ends_like_a_whole_one(tmp_path, whole):
    draw = random.Random(0)
    for _ in range(2):
        process = PROCESSES.Process(target=run_and_die, args=([], tmp_path, "step", 1000))
        process.start()
        try:
            while not (tmp_path / "metrics").exists() and process.is_alive():
                time.sleep(0.01)
            time.sleep(draw.uniform(0, 0.8))
        finally:
            process.kill()
            process.join()
    train(config(), tmp_path)
    assert_same(tmp_path, whole)


def test_time_adds_up_over_interruptions(tmp_path):
    killed([], tmp_path, "result", 1)
    before = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)["callbacks"]
    (seconds,) = [value["seconds"] for key, value in before.items() if "LastCheckpoint" in key]
    assert seconds > 0
    assert train(config(), tmp_path)["time_s"] == round(seconds, 2)


def test_a_finished_run_is_not_done_again(tmp_path, whole, monkeypatch):
    written = (whole / "result.json").stat().st_mtime_ns
    monkeypatch.setattr(run, "_train", lambda *_: pytest.fail("trained again"))
    assert train(config("logger.project=another", "trainer.enable_progress_bar=true"), whole)["epoch"] == 2
    assert (whole / "result.json").stat().st_mtime_ns == written


@pytest.mark.parametrize("kind", [kind for kind in QUICK if kind != "stale"])
def test_a_finished_run_that_is_trained_on_ends_like_a_whole_one(kind, tmp_path):
    overrides = [*KINDS[kind], "trainer.max_epochs=2"]
    train(config(*overrides), tmp_path / "whole")
    folder = tmp_path / "longer"
    train(config(*overrides, "trainer.max_epochs=1"), folder)
    killed(overrides, folder, "step", 2)
    assert json.loads((folder / "result.json").read_text())["steps"] == STEPS  # as it was until then
    result = train(config(*overrides), folder)
    assert result["extended_from"] == [1]
    (folder / "result.json").write_text(json.dumps({k: v for k, v in result.items() if k != "extended_from"}))
    assert_same(folder, tmp_path / "whole")


def test_a_run_that_began_with_another_s_weights_goes_on_without_it(tmp_path, whole, capsys):
    other = tmp_path / "other"
    shutil.copytree(whole, other)
    overrides = ["guess=gaussian", f"ckpt_path={other}", "trainer.max_epochs=2"]
    train(config(*overrides), tmp_path / "whole")
    folder = tmp_path / "longer"
    train(config(*overrides, "trainer.max_epochs=1"), folder)
    shutil.rmtree(other)
    assert train(config(*overrides), folder)["extended_from"] == [1]
    assert "extended from" in capsys.readouterr().out
    assert metrics(folder) == metrics(tmp_path / "whole")
    assert all(
        torch.equal(value, weights(tmp_path / "whole")[name])
        for name, value in weights(folder).items()
        if name != "schedule"
    )


def test_fewer_epochs_or_another_schedule_are_other_settings(tmp_path):
    train(config("scheduler=cosine", "trainer.max_epochs=2"), tmp_path)
    with pytest.raises(ConfigError, match=r"trainer\.max_epochs=2 there, 1 now.*: restore .* away$"):
        train(config("scheduler=cosine", "scheduler.T_max=2", "trainer.max_epochs=1"), tmp_path)
    with pytest.raises(ConfigError, match=r"\(scheduler\.T_max=2 there, 3 now\): .* by ckpt_path$"):
        train(config("scheduler=cosine", "trainer.max_epochs=3"), tmp_path)
    with pytest.raises(ConfigError, match=r"optim\.lr=0\.05 there, 0\.1 now"):
        train(config("scheduler=cosine", "scheduler.T_max=2", "trainer.max_epochs=3", "optim.lr=0.1"), tmp_path)


def test_other_settings_are_refused_and_nothing_is_touched(whole):
    def contents():
        return {path: path.read_bytes() for path in whole.rglob("*") if path.is_file() and path.name != ".lock"}

    before = contents()
    with pytest.raises(ConfigError, match=r"optim\.lr=0\.05 there, 0\.1 now; seed=0 there, 1 now"):
        train(config("optim.lr=0.1", "seed=1"), whole)
    with pytest.raises(ConfigError, match=r"guess\.name=local there, ntk now"):
        train(config("guess=ntk"), whole)
    assert contents() == before


def test_a_damaged_configuration_is_named(tmp_path):
    (tmp_path / "config.yaml").write_text("seed: [0")
    with pytest.raises(ConfigError, match=r"config\.yaml cannot be read"):
        train(config(), tmp_path)


def test_a_damaged_checkpoint_is_moved_aside_and_training_starts_over(tmp_path, whole, capsys):
    killed([], tmp_path, "step", 5)
    checkpoint = tmp_path / "checkpoints" / "last.ckpt"
    checkpoint.write_bytes(checkpoint.read_bytes()[:1000])
    train(config(), tmp_path)
    assert "last.ckpt is damaged" in capsys.readouterr().err
    assert (tmp_path / "checkpoints" / "last.damaged").stat().st_size == 1000
    assert_same(tmp_path, whole)


def test_a_directory_in_use_is_left_alone(tmp_path):
    with FileLock(tmp_path / ".lock"):
        assert state(tmp_path) is State.RUNNING
        with pytest.raises(RunBusyError, match="another process"):
            train(config(), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]


def test_a_killed_process_lets_go_of_its_directory(tmp_path):
    killed([], tmp_path, "step", 2)
    assert (tmp_path / ".lock").exists()
    assert state(tmp_path) is State.INTERRUPTED


def test_a_failure_is_recorded_and_forgotten_when_the_run_succeeds(tmp_path, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr(torch.Tensor, "isfinite", lambda self: torch.zeros_like(self, dtype=torch.bool))
        with pytest.raises(NonFiniteLossError):
            train(config(), tmp_path)
    assert state(tmp_path) is State.DIVERGED
    assert "step 0" in json.loads((tmp_path / "failure.json").read_text())["error"]
    train(config(), tmp_path)
    assert state(tmp_path) is State.FINISHED
    assert not (tmp_path / "failure.json").exists()


def test_the_configuration_on_disk_is_the_run_s_own(whole):
    stored = yaml.safe_load((whole / "config.yaml").read_text())
    assert stored == run_settings(config())
    assert not set(stored) & {*SWEEP_SETTINGS, "hydra"}
    assert OmegaConf.load(whole / "config.yaml").optim.lr == 0.05


def test_a_checkpoint_of_others_is_moved_aside(tmp_path, capsys):
    path = tmp_path / "checkpoints" / "last.ckpt"
    path.parent.mkdir()
    torch.save({"state_dict": {}, "global_step": 5, "callbacks": {}}, path)
    assert LastCheckpoint(path).usable() is None
    assert "no checkpoint of a run: moved to last.damaged" in capsys.readouterr().err
    assert not path.exists()
