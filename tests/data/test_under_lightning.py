"""Data modules under Lightning's Trainer: a resumed run sees what an unbroken one does."""

import lightning
import pytest
import torch
from image_files import (
    imagenette,
    make,
    write_imagenette,
)

from fglight.errors import ConfigError


class Recorder(lightning.LightningModule):
    """Trains nothing to speak of and notes which images it saw in which epoch."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen = {}
        self.judged = []

    def training_step(self, batch, index):
        images, labels = batch
        self.seen.setdefault(self.current_epoch, []).append((float(images.double().sum()), labels.tolist()))
        return self.weight * images.mean()

    def validation_step(self, batch, index):
        self.judged.append(batch[1].tolist())

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(tmp_path, module, epochs, checkpoint=None, reload=1):
    saver = lightning.pytorch.callbacks.ModelCheckpoint(tmp_path / "checkpoints", save_last=True)
    trainer = lightning.Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        reload_dataloaders_every_n_epochs=reload,
        callbacks=[saver],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    recorder = Recorder()
    trainer.fit(recorder, module, ckpt_path=checkpoint)
    return recorder, saver.last_model_path


@pytest.mark.parametrize(("name", "workers"), [("digits", None), ("imagenette", 0), ("imagenette", 2)])
def test_a_resumed_run_sees_the_batches_of_an_unbroken_one(tmp_path, name, workers):
    write_imagenette(tmp_path)

    def module():
        if name == "digits":
            return make("digits", tmp_path, batch_size=500, augment=True, seed=1)
        return imagenette(tmp_path, batch_size=9, seed=1, num_workers=workers)

    unbroken, _ = fit(tmp_path / "unbroken", module(), 3)
    _, checkpoint = fit(tmp_path / "broken", module(), 2)
    resumed, _ = fit(tmp_path / "resumed", module(), 3, checkpoint)
    assert sorted(unbroken.seen) == [0, 1, 2]
    assert unbroken.seen[0] != unbroken.seen[1] != unbroken.seen[2]
    assert resumed.seen == {2: unbroken.seen[2]}


def test_a_trainer_that_would_repeat_an_epoch_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"trainer\.reload_dataloaders_every_n_epochs must be 1, got 0"):
        fit(tmp_path, make("digits", tmp_path), 2, reload=0)
    seen = fit(tmp_path, make("digits", tmp_path), 1, reload=0)[0].seen[0]
    assert [labels for _, labels in seen] == [y.tolist() for _, y in make("digits", tmp_path).train_dataloader()]
