"""A trained network on a test set."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import lightning as L
import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from omegaconf import DictConfig

from fglight.build import build_data, build_estimator
from fglight.errors import ConfigError, one_line
from fglight.log_names import of_block, of_split
from fglight.runs.record import judged_on, metric_names
from fglight.training.build import build_metrics
from fglight.training.module import ForwardGradientModule
from fglight.training.quiet import quieten
from fglight.training.run import refusal
from fglight.training.setup import NeedTests
from fglight.training.weights import TrainedRun

_TRAINER = ("accelerator", "precision", "limit_val_batches", "enable_progress_bar", "inference_mode")


@dataclass(frozen=True)
class Evaluation:
    """What a trained network is worth.

    Attributes:
        run: the folder.
        epochs: how many it was trained for.
        max_epochs: how many it was to be trained for.
        finished: whether its training is over.
        data: what it was evaluated on.
        split: the images of it: ``test``, or ``held-out`` ones.
        metrics: of the network, by name; accuracies are fractions.
        auxiliaries: of each block's auxiliary network, where they are in use, by block.
    """

    run: str
    epochs: int
    max_epochs: int
    finished: bool
    data: str
    split: str
    metrics: dict[str, float]
    auxiliaries: dict[int, dict[str, float]]


def evaluate(run_dir: Path, changed: Callable[[DictConfig], DictConfig]) -> Evaluation:
    """Evaluate a run's network at its last checkpoint; nothing is written.

    Args:
        run_dir: the run's directory.
        changed: makes the configuration to evaluate with of that which the run was trained with.

    Raises:
        ConfigError: it is no run, or its network is none for these data.
        DataError: files of the data set are missing or damaged.
    """
    quieten()
    run = TrainedRun.read(run_dir)
    cfg = changed(run.cfg)
    for setting in ("num_classes", "in_channels"):
        if cfg.data[setting] != run.cfg.data[setting]:
            raise ConfigError(
                f"data.{setting} must be {run.cfg.data[setting]}, as the network was trained on "
                f"{run.cfg.data.name}, got {cfg.data[setting]} of {cfg.data.name}"
            )
    cfg.compile = False
    L.seed_everything(cfg.seed, verbose=False)
    module = ForwardGradientModule(
        run.network(),
        build_estimator(cfg),
        optimizer=torch.optim.SGD,  # of which none is made
        metrics=build_metrics(cfg),
        channels_last=cfg.channels_last,
    )
    options = {name: cfg.trainer[name] for name in _TRAINER if cfg.trainer.get(name) is not None}
    try:
        trainer = L.Trainer(
            **options,
            devices=1,
            use_distributed_sampler=False,
            logger=False,
            enable_checkpointing=False,
            enable_model_summary=False,
            callbacks=[NeedTests()],
        )
        (logged,) = trainer.validate(module, datamodule=build_data(cfg), verbose=False)
    except (MisconfigurationException, TypeError) as error:
        raise refusal(cfg, error) from error
    except RuntimeError as error:
        size = run.cfg.data.image_size
        if cfg.data.image_size == size:
            raise
        raise ConfigError(
            f"data.image_size must be {size}, as the network was trained on, got {cfg.data.image_size} of "
            f"{cfg.data.name} ({one_line(error)})"
        ) from error
    names = metric_names(cfg)
    local = {
        j: {name: logged[of_block(of_split("test", f"local_{name}"), j)] for name in names}
        for j in range(len(module.model.blocks) - 1)
        if module.estimator.evaluates_auxiliaries
    }
    return Evaluation(
        run=str(run_dir),
        epochs=run.epochs,
        max_epochs=run.cfg.trainer.max_epochs,
        finished=run.finished,
        data=cfg.data.name,
        split=judged_on(cfg.data.get("holdout")),
        metrics={name: logged[of_split("test", name)] for name in names},
        auxiliaries=local,
    )
