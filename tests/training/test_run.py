"""Runs that end early, diverge or cannot start."""

import csv

import lightning as L
import pytest
import torch
from fitting import BATCHES, QUICK, STEPS, TINY, beyond_quick, fit, logged
from helpers import build, module_of
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from fglight import load_config
from fglight.errors import ConfigError, NonFiniteLossError
from fglight.training.run import train

# A loss that is no longer finite


@pytest.mark.parametrize("every", [1, 50])
@pytest.mark.parametrize("bad_epoch", [0, 1])
def test_a_bad_loss_stops_the_run_and_leaves_the_last_good_checkpoint(bad_epoch, every, tmp_path):
    model, estimator, _ = build(TINY, dtype=torch.float32)
    module = module_of(model, estimator)
    starts = []

    class Weights(L.Callback):
        def on_train_epoch_start(self, trainer, module):
            starts.append({name: value.clone() for name, value in module.model.state_dict().items()})

    with pytest.raises(NonFiniteLossError, match=rf"step {bad_epoch * BATCHES + 1}\b.*epoch {bad_epoch}\b.*optim\.lr"):
        fit(module, tmp_path, epochs=4, bad_epoch=bad_epoch, every=every, callbacks=[Weights()], validate=False)
    assert len(starts) == bad_epoch + 1
    until = 2 if every == 1 else BATCHES  # read at every report, or else at the end of the epoch
    assert module.trainer.global_step == bad_epoch * BATCHES + until
    saved = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    for name, value in starts[-1].items():
        assert value.isfinite().all()
        assert torch.equal(saved[f"model.{name}"], value), name


def test_a_run_that_diverges_says_so_and_is_not_a_result(tmp_path):
    quick = ["model.width=0.015625", "trainer.max_epochs=2", "trainer.accelerator=cpu"]
    quiet = ["logger.mode=disabled", "trainer.enable_progress_bar=false"]
    cfg = load_config(["optim.lr=1e20", *quick, *quiet])
    with pytest.raises(NonFiniteLossError, match=r"step \d+ .*1e\+20"):
        train(cfg, tmp_path)
    saved = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    assert all(value.isfinite().all() for value in saved.values())
    assert (tmp_path / "failure.json").exists()
    assert not (tmp_path / "result.json").exists()


# Shortened runs


@pytest.mark.parametrize(
    ("option", "steps", "epochs"),
    [
        ("max_steps=2", 2, 1),
        ("max_steps=12", 12, 2),
        ("max_steps=8", 8, 2),
        ("max_steps=99", 3 * STEPS, 3),
        ("limit_train_batches=1", 3, 3),
        ("limit_train_batches=0.5", 9, 3),
        ("limit_val_batches=1", 3 * STEPS, 3),
        ("fast_dev_run=true", 1, 1),
        ("fast_dev_run=2", 2, 1),
    ],
)
def test_a_shortened_run_ends_normally_and_says_so(option, steps, epochs, tmp_path, capsys):
    result = train(load_config([*QUICK, f"trainer.{option}"]), tmp_path)
    name, _, value = option.partition("=")
    out = capsys.readouterr().out
    assert beyond_quick(result).keys() == {f"trainer.{name}"}
    assert str(result["differences"][f"trainer.{name}"]).lower() == value
    assert (result["steps"], result["epoch"]) == (steps, epochs - 1)
    assert f"trainer.{name} " in out  # the summary
    assert f"{steps} step{'' if steps == 1 else 's'}, to epoch {epochs} of 3" in " ".join(out.split())

    saved = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    assert saved["global_step"] == steps
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["last.ckpt"]
    assert not (tmp_path / "failure.json").exists()
    if name != "fast_dev_run":  # of which Lightning logs nothing
        (metrics,) = tmp_path.rglob("metrics.csv")
        with metrics.open(newline="") as file:
            rows = [{key: float(value) for key, value in row.items() if value} for row in csv.DictReader(file)]
        accuracies = logged(rows, "test/accuracy")
        assert len(accuracies) == epochs
        assert accuracies[-1] == pytest.approx(result["test_accuracy"])
        assert logged(rows, "train/loss")[-1] == pytest.approx(result["train_loss"])
    before = (tmp_path / "result.json").read_text()
    assert train(load_config([*QUICK, f"trainer.{option}"]), tmp_path) == result
    assert (tmp_path / "result.json").read_text() == before


def test_max_steps_trains_the_same_steps_and_tests_what_came_of_them(tmp_path):
    short = train(load_config([*QUICK, f"trainer.max_steps={2 * STEPS}"]), tmp_path / "short")
    whole = train(load_config([*QUICK, "trainer.max_epochs=2", "scheduler.step_size=4"]), tmp_path / "whole")
    for name in ("test_accuracy", "test_loss", "train_accuracy", "train_loss", "epoch", "steps"):
        assert short[name] == whole[name]
    assert beyond_quick(whole) == {}


def test_max_time_ends_a_run(tmp_path):
    result = train(load_config([*QUICK, "trainer.max_epochs=100000", "trainer.max_time=00:00:00:01"]), tmp_path)
    assert beyond_quick(result) == {"trainer.max_time": "00:00:00:01"}
    assert result["steps"] > 0
    assert result["epoch"] == (result["steps"] - 1) // STEPS
    assert 0 <= result["test_accuracy"] <= 1


@pytest.mark.parametrize("option", ["limit_train_batches=0.01", "limit_val_batches=0.1"])
def test_a_share_of_less_than_a_batch_names_the_option(option, tmp_path):
    with pytest.raises(ConfigError, match=rf"^trainer\.{option} is not possible here: .* Try at least") as caught:
        train(load_config([*QUICK, f"trainer.{option}"]), tmp_path)
    assert "\n" not in str(caught.value)


class Nothing(IterableDataset):
    def __iter__(self):
        return iter(())


class OwnData(L.LightningDataModule):
    """Eight images for training and testing, but where other loaders are given."""

    def __init__(self, **loaders):
        super().__init__()
        images = TensorDataset(torch.zeros(8, 1, 8, 8), torch.zeros(8, dtype=torch.long))
        whole = DataLoader(images, 4)
        self.loaders = {"train": whole, "val": whole} | loaders

    def train_dataloader(self):
        return self.loaders["train"]

    def val_dataloader(self):
        return self.loaders["val"]


@pytest.mark.parametrize(
    "loader", [DataLoader(TensorDataset(torch.zeros(3, 1)), 4, drop_last=True), DataLoader(Nothing())]
)
@pytest.mark.parametrize(("split", "use"), [("train", "train"), ("val", "test")])
@pytest.mark.parametrize("guess", ["local", "dfa"])
@pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step")  # after an epoch without a step
def test_data_of_one_s_own_without_a_batch_are_told_in_one_line(guess, split, use, loader, tmp_path, monkeypatch):
    monkeypatch.setattr("fglight.training.run.build_data", lambda _: OwnData(**{split: loader}))
    cfg = load_config([*QUICK, f"guess={guess}"])
    with pytest.raises(ConfigError, match=rf"must give a batch to {use} on, and its {split}_dataloader gives none"):
        train(cfg, tmp_path)


def test_options_that_a_run_decides_on_may_be_given_as_they_are(tmp_path):
    same = ["accumulate_grad_batches=1", "enable_checkpointing=true", "num_sanity_val_steps=0", "callbacks=null"]
    plain = ["deterministic=true", "detect_anomaly=true", "inference_mode=false", "benchmark=true"]
    result = train(load_config([*QUICK, *(f"trainer.{option}" for option in same + plain)]), tmp_path)
    assert (beyond_quick(result), result["epoch"]) == ({}, 2)


@pytest.mark.skipif(torch.cuda.is_available(), reason="has a GPU")
def test_devices_that_are_not_there_are_named(tmp_path):
    cfg = load_config(["trainer.accelerator=gpu", "logger.mode=disabled", "trainer.max_epochs=1"])
    with pytest.raises(ConfigError, match=r"trainer\.accelerator=gpu trainer\.devices=1 is not possible here"):
        train(cfg, tmp_path)
