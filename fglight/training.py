"""One run: from a configuration to a trained network and a run directory."""

import logging
import os
import time
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import Any

import lightning as L
import torch
import wandb
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from lightning.pytorch.callbacks import ModelCheckpoint, RichProgressBar
from lightning.pytorch.loggers import CSVLogger, Logger, WandbLogger
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from fglight.cells import Cell
from fglight.config import build_estimator, build_model, check_config
from fglight.errors import FglightError
from fglight.module import ForwardGradientModule
from fglight.results import build_result, summary, write_json


class LastCheckpoint(ModelCheckpoint):
    """Keeps ``last.ckpt``: the untrained network at first, then the state at the end of every epoch.

    A run that is interrupted or goes wrong in an epoch thus leaves what it had at the epoch's start.

    Args:
        folder: where the checkpoint goes.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(
            folder, save_last=True, save_top_k=0, save_on_train_epoch_end=True, enable_version_counter=False
        )

    @property
    def path(self) -> Path:
        """The checkpoint's file."""
        return Path(self.dirpath) / "last.ckpt"

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Save the untrained network."""
        super().on_train_start(trainer, pl_module)
        if not self.path.exists():
            trainer.save_checkpoint(self.path)

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Say what an interruption leaves."""
        if isinstance(exception, KeyboardInterrupt) and self.path.exists():
            Console(stderr=True).print(f"Interrupted in epoch {trainer.current_epoch}; last checkpoint: {self.path}")


class ProgressBar(RichProgressBar):
    """Epoch, steps and speed, with the current loss and the last epoch's accuracies."""

    def get_metrics(self, trainer: L.Trainer, pl_module: L.LightningModule) -> dict[str, str]:
        """The figures one watches, in few characters."""
        metrics = trainer.progress_bar_metrics
        shown = {"loss": f"{metrics['loss']:.3f}"} if "loss" in metrics else {}
        for split in ("train", "test"):
            if f"{split}/accuracy" in metrics:
                shown[split] = f"{100 * metrics[f'{split}/accuracy']:.1f}%"
        return shown


def train(cfg: DictConfig, run_dir: Path) -> dict[str, Any]:
    """Train as configured, leave everything in a run directory, and print a summary.

    The directory gets ``config.yaml`` (resolved), ``metrics/``, ``checkpoints/last.ckpt`` and, at the end,
    ``result.json``.

    Args:
        cfg: a configuration as ``load_config`` composes it.
        run_dir: the directory; it is made where it does not exist.

    Returns:
        What ``result.json`` holds.

    Raises:
        ConfigError: a setting means nothing.
        DataError: files of the data set are missing or damaged.
        NonFiniteLossError: training diverged.
    """
    check_config(cfg)
    cell = Cell.from_config(cfg)
    run_dir.mkdir(parents=True, exist_ok=True)
    OmegaConf.save(cfg, run_dir / "config.yaml", resolve=True)
    try:
        return _train(cfg, cell, run_dir)
    except Exception as error:
        failure = {"cell": asdict(cell), "seed": cfg.seed, "error": f"{type(error).__name__}: {error}"}
        write_json(run_dir / "failure.json", failure)
        raise


def _train(cfg: DictConfig, cell: Cell, run_dir: Path) -> dict[str, Any]:
    _quieten()
    L.seed_everything(cfg.seed, verbose=False)
    data = _build_data(cfg)
    data.prepare_data()
    data.setup()
    module = ForwardGradientModule(
        build_model(cfg), build_estimator(cfg), **cfg.optim, seed=cfg.seed, cosine=cfg.cosine
    )
    trainer = L.Trainer(
        **cfg.trainer,
        default_root_dir=run_dir,
        logger=build_loggers(cfg, run_dir),
        callbacks=[
            LastCheckpoint(run_dir / "checkpoints"),
            *([ProgressBar()] if cfg.trainer.enable_progress_bar else []),
        ],
        num_sanity_val_steps=0,
        reload_dataloaders_every_n_epochs=1,
        enable_model_summary=False,
    )
    console = Console()
    console.print(
        f"[bold]{cell}[/bold] seed {cfg.seed}: {cfg.trainer.max_epochs} epochs, into {os.path.relpath(run_dir)}",
        soft_wrap=True,
    )
    start = time.perf_counter()
    try:
        trainer.fit(module, datamodule=data)
    except BaseException:
        wandb.finish(exit_code=1)
        raise
    wandb.finish()
    result = build_result(
        cfg,
        epochs_done=trainer.current_epoch,
        metrics={name: float(value) for name, value in trainer.callback_metrics.items()},
        seconds=time.perf_counter() - start,
        device=_device_name(trainer.strategy.root_device),
    )
    write_json(run_dir / "result.json", result)
    console.print(summary(result, run_dir))
    return result


def _build_data(cfg: DictConfig) -> L.LightningDataModule:
    try:
        return instantiate(cfg.data, seed=cfg.seed)
    except InstantiationException as error:
        # Hydra wraps what a constructor raises; the data set's own words are the better ones.
        if isinstance(error.__cause__, FglightError):
            raise error.__cause__ from None
        raise


def build_loggers(cfg: DictConfig, run_dir: Path) -> list[Logger]:
    """CSV files always, and Weights & Biases unless ``logger.mode=disabled``, with the complete configuration."""
    loggers: list[Logger] = [CSVLogger(run_dir, name="metrics")]
    if cfg.logger.mode != "disabled":
        cell = Cell.from_config(cfg)
        run = wandb.init(
            dir=run_dir,
            mode=cfg.logger.mode,
            project=cfg.logger.project,
            entity=cfg.logger.entity,
            group=cfg.logger.group,
            name=cfg.logger.name,
            tags=[
                *(word for word in (cell.data, cell.target, cell.guess, cell.aux, cell.perturb) if word),
                *cfg.logger.tags,
            ],
            config={**OmegaConf.to_container(cfg, resolve=True), "cell": asdict(cell)},
            settings=wandb.Settings(silent=True),
            reinit="finish_previous",
        )
        loggers.append(WandbLogger(experiment=run))
    return loggers


def _device_name(device: torch.device) -> str:
    return (
        torch.cuda.get_device_name(device)
        if device.type == "cuda"
        else f"{device.type}, {torch.get_num_threads()} threads"
    )


def _quieten() -> None:
    """Silence what Lightning says in every run and nobody can act on here."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", ".*isinstance.treespec, LeafSpec.*")
    warnings.filterwarnings("ignore", ".*does not have many workers.*")
    warnings.filterwarnings("ignore", ".*Checkpoint directory .* exists and is not empty.*")
    warnings.filterwarnings("ignore", ".*The number of training batches .* is smaller than the logging interval.*")
