"""From a configuration to what a run has besides network, estimator and data."""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
from hydra.errors import HydraException
from hydra.utils import instantiate
from lightning import Callback
from lightning.pytorch.callbacks import (
    BatchSizeFinder,
    Checkpoint,
    GradientAccumulationScheduler,
    LearningRateFinder,
    ProgressBar,
    StochasticWeightAveraging,
)
from omegaconf import DictConfig
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torchmetrics import Metric

from fglight.build import component
from fglight.errors import ConfigError, one_line


def build_metrics(cfg: DictConfig) -> dict[str, Metric]:
    """The metrics of a configuration, by name.

    Raises:
        ConfigError: one cannot be made.
    """
    return {name: _own("loss.metrics", name, settings) for name, settings in cfg.loss.metrics.items()}


def build_callbacks(cfg: DictConfig) -> list[Callback]:
    """The callbacks of a configuration's run, beside those that every run has.

    Raises:
        ConfigError: one cannot be made, or does what a run does by itself.
    """
    instead: dict[Any, str] = {
        Checkpoint: "checkpoints/last.ckpt is what an interrupted run goes on from",
        ProgressBar: "trainer.enable_progress_bar shows one",
        (BatchSizeFinder, GradientAccumulationScheduler): "data.batch_size is how many images a step takes",
        LearningRateFinder: "-m search=lr looks for learning rates",
        StochasticWeightAveraging: "the scheduler decides on learning rates, and EMAWeightAveraging averages weights",
    }
    callbacks = []
    for name, settings in cfg.callbacks.items():
        callback = _own("callbacks", name, settings)
        chosen = f"callbacks.{name}._target_={settings._target_}"
        if not isinstance(callback, Callback):
            raise ConfigError(f"callbacks.{name} must be a callback of Lightning's, got {settings._target_}")
        for kind, words in instead.items():
            if isinstance(callback, kind):
                raise ConfigError(f"{chosen} cannot go with what a run does by itself: leave it out, {words}")
        callbacks.append(callback)
    return callbacks


def _own(node: str, name: str, settings: DictConfig) -> Any:
    """What a user has put into a group of named components.

    Raises:
        ConfigError: it cannot be made.
    """
    try:
        return instantiate(settings)
    except HydraException as error:
        reason = one_line(error.__cause__ or error)
        raise ConfigError(f"{node}.{name} is not possible: {reason}") from error


def build_optimizer(cfg: DictConfig, device: torch.device) -> Callable[[Iterable[nn.Parameter]], Optimizer]:
    """What makes the optimizer of a configuration's run.

    Args:
        cfg: the configuration.
        device: where its parameters are; ``optim.fused=null`` is true on a GPU.
    """
    fused = {"fused": device.type == "cuda"} if cfg.optim.get("fused", False) is None else {}
    return _from_one(cfg, "optim", **fused)


def build_scheduler(cfg: DictConfig) -> Callable[[Optimizer], LRScheduler]:
    """What makes the scheduler of the learning rate of a configuration's run."""
    return _from_one(cfg, "scheduler")


def _from_one(cfg: DictConfig, group: str, **settings: Any) -> Callable:
    """What makes a group's component from one argument that the settings do not have, and says what is wrong with them.

    The function raises ConfigError.
    """
    made = partial(component(cfg, group), **settings)

    def make(argument: Any) -> Any:
        try:
            return made(argument)
        except (TypeError, ValueError) as error:
            raise ConfigError(f"{group}={cfg[group].name} is not possible with its settings: {error}") from error

    return make
