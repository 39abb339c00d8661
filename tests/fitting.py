"""A few random images to train on, and short runs on digits."""

import csv
from pathlib import Path

import lightning as L
import torch
from lightning.pytorch.loggers import CSVLogger
from torch.utils.data import DataLoader, Dataset

from fglight.training.run import LastCheckpoint

BATCHES, BATCH, CLASSES = 3, 8, 10


TINY = {"model.width": 1 / 64}


class Images(Dataset):
    """A few random images; from epoch ``bad_epoch`` on one of the second batch is not a number."""

    def __init__(self, bad_epoch=None):
        generator = torch.Generator().manual_seed(0)
        self.images = torch.randn(BATCHES * BATCH, 3, 8, 8, generator=generator)
        self.labels = torch.randint(CLASSES, (BATCHES * BATCH,), generator=generator)
        self.bad_epoch, self.served = bad_epoch, 0

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        epoch, self.served = self.served // len(self), self.served + 1
        image = self.images[index]
        bad = self.bad_epoch is not None and epoch >= self.bad_epoch and index == BATCH + 1
        return (image * torch.nan if bad else image), self.labels[index]


def fit(module, folder, epochs=1, bad_epoch=None, callbacks=(), every=1, validate=True):
    """Train on a few random images and return what was logged, a list of rows."""
    trainer = L.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=CSVLogger(folder, name="metrics", version=""),
        callbacks=[LastCheckpoint(Path(folder) / "checkpoints/last.ckpt"), *callbacks],
        log_every_n_steps=every,
        num_sanity_val_steps=0,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    loader = DataLoader(Images(bad_epoch), batch_size=BATCH)
    trainer.fit(module, loader, DataLoader(Images(), batch_size=BATCH) if validate else None)
    with (Path(folder) / "metrics" / "metrics.csv").open(newline="") as file:
        return [{key: float(value) for key, value in row.items() if value} for row in csv.DictReader(file)]


def logged(rows, name):
    return [row[name] for row in rows if name in row]


QUICKER = ("batch_size", "max_epochs")


QUICK = [
    "model.width=0.015625",
    "guess=exact",
    "data.batch_size=240",
    "trainer.max_epochs=3",
    "trainer.accelerator=cpu",
    "trainer.enable_progress_bar=false",
    "logger.mode=disabled",
]


STEPS = 6
"""Steps an epoch on digits."""


def beyond_quick(result):
    """In what a run differs from the paper's beside batch size and epochs."""
    return {name: value for name, value in result["differences"].items() if name.rpartition(".")[2] not in QUICKER}
