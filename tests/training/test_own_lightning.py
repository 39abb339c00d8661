"""The package's module and its estimator in Lightning code of a user's own."""

import subprocess
import sys
from pathlib import Path

import lightning as L
import own_lightning
import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping, LearningRateMonitor, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from torch.utils.data import DataLoader

ROOT = Path(__file__).parents[2]
STEPS = 23
"""Steps of an epoch: 1437 images in batches of 64."""


class InOrder(own_lightning.Digits):
    """The same batches in every epoch, whatever was drawn before."""

    def train_dataloader(self):
        return DataLoader(self.train, batch_size=64)


@pytest.fixture(params=["ForwardGradientModule", "a module of one's own"])
def make(request):
    def made():
        torch.manual_seed(0)
        return own_lightning.modules()[request.param]

    return made


def fit(module, folder, callbacks=(), ckpt_path=None, **options):
    torch.manual_seed(1)
    trainer = L.Trainer(
        accelerator="cpu",
        default_root_dir=folder,
        logger=CSVLogger(folder, name="", version=""),
        callbacks=[ModelCheckpoint(folder, monitor="test/accuracy", mode="max", save_last=True), *callbacks],
        enable_progress_bar=False,
        enable_model_summary=False,
        **options,
    )
    trainer.fit(module, InOrder(), ckpt_path=ckpt_path, weights_only=True)
    return trainer


def test_callbacks_do_what_they_do_elsewhere(make, tmp_path):
    monitor = LearningRateMonitor("epoch")
    callbacks = [EarlyStopping("test/loss", patience=0, min_delta=100), monitor]
    trainer = fit(make(), tmp_path, callbacks if make().configure_optimizers() else callbacks[:1], max_epochs=5)
    assert trainer.current_epoch == 2  # the second epoch was not better by 100
    assert trainer.checkpoint_callback.best_model_score == trainer.callback_metrics["test/accuracy"]
    assert trainer.callback_metrics["test/accuracy"] > 0.3


def test_training_ends_after_a_number_of_steps(make, tmp_path):
    assert fit(make(), tmp_path, max_steps=STEPS + 2, max_epochs=5).global_step == STEPS + 2


def test_a_resumed_run_ends_like_a_whole_one(make, tmp_path):
    whole, resumed = make(), make()
    fit(whole, tmp_path / "whole", max_epochs=2)
    fit(make(), tmp_path / "first", max_epochs=1)
    trainer = fit(resumed, tmp_path / "second", max_epochs=2, ckpt_path=tmp_path / "first" / "last.ckpt")
    assert (trainer.current_epoch, trainer.global_step) == (2, 2 * STEPS)
    assert all(map(torch.equal, whole.state_dict().values(), resumed.state_dict().values()))


def test_two_devices_leave_the_same_network_in_each(tmp_path):
    code = f"""
import lightning as L, torch, own_lightning
for name, module in own_lightning.modules().items():
    trainer = L.Trainer(
        max_steps=3, accelerator="cpu", devices=2, strategy="ddp_fork", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, limit_val_batches=0,
    )
    class Check(own_lightning.Digits):
        def teardown(self, stage):
            flat = torch.cat([p.detach().flatten() for p in module.parameters()])
            everywhere = module.all_gather(flat)
            assert everywhere.shape[0] == 2 and torch.equal(everywhere[0], everywhere[1])
            assert flat.isfinite().all()
            open({str(tmp_path)!r} + f"/{{trainer.global_rank}} {{name}}", "w").close()
    trainer.fit(module, Check())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT / "examples")
    assert done.returncode == 0, done.stderr
    assert len(list(tmp_path.iterdir())) == 4
