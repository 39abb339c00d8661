"""From a configuration to objects."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from inspect import isclass
from typing import TYPE_CHECKING, Any

import torch
from hydra.errors import HydraException, InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from fglight.cell import FACTS, says
from fglight.config import compose
from fglight.config.settings import DATA, arguments, choices, not_arguments
from fglight.errors import ConfigError, FglightError, one_line
from fglight.estimators import GradientEstimator
from fglight.estimators.engines.compiled import COMPILERS
from fglight.models import BlockNetwork, Loss

IMAGES = ("num_classes", "in_channels", "image_size")
"""What a network is told of the data set, where its class takes it."""

if TYPE_CHECKING:  # takes seconds, and plans do without
    from lightning import Callback, LightningDataModule
    from torchmetrics import Metric


def load_config(overrides: Sequence[str] = ()) -> DictConfig:
    """Compose a configuration as ``fglight train`` does, and check that its components go together.

    Args:
        overrides: Hydra overrides on ``conf/config.yaml``, such as ``["guess=ntk", "model.width=0.5"]``.

    Returns:
        The configuration, with a node for each group.

    Raises:
        ConfigError: if a setting, or a combination of settings, means nothing.
        hydra.errors.HydraException: if a group or choice does not exist; it lists what does.
    """
    cfg = compose(overrides)
    build_estimator(cfg)
    return cfg


def build_model(cfg: DictConfig) -> BlockNetwork:
    """The network of a configuration.

    Args:
        cfg: a configuration as ``load_config`` composes it.

    Returns:
        The blocks, freshly initialised from torch's default generator.

    Raises:
        ConfigError: its settings, or the images, are none that the network can have, or its class gives no blocks.
    """
    target = cfg.model._target_
    takes = arguments("model", target)
    images = {name: cfg.data[name] for name in IMAGES if takes is None or name in takes}
    auxiliary = partial(_auxiliary(cfg), num_classes=cfg.data.num_classes)
    try:
        network = _component(cfg, "model")(auxiliary=auxiliary, **images)
    except ValueError as error:
        raise ConfigError(one_line(error)) from error
    if not isinstance(network, BlockNetwork):
        raise ConfigError(
            f"model._target_={target} is not possible: accepted is what gives a fglight.models.BlockNetwork"
        )
    network.use_loss(build_loss(cfg))
    return network


def build_loss(cfg: DictConfig) -> Loss:
    """The loss of a configuration, for blocks that have none of their own.

    Raises:
        ConfigError: it cannot be made.
    """
    loss = _component(cfg, "loss")
    try:
        return loss() if isclass(loss.func) else loss
    except (TypeError, ValueError) as error:
        raise ConfigError(f"loss={cfg.loss.name} is not possible with its settings: {one_line(error)}") from error


def build_metrics(cfg: DictConfig) -> "dict[str, Metric]":
    """The metrics of a configuration, by name.

    Raises:
        ConfigError: one cannot be made.
    """
    return {name: _own("loss.metrics", name, settings) for name, settings in cfg.loss.metrics.items()}


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


def _auxiliary(cfg: DictConfig) -> Callable[..., nn.Module]:
    """What makes a block's auxiliary network, or several whose settings are those of their files."""
    if "parts" not in cfg.aux:
        return _component(cfg, "aux")
    several, parts = {key: value for key, value in cfg.aux.items() if key != "parts"}, cfg.aux.parts
    listed = [_component({"aux": choices("aux")[part]}, "aux") for part in parts]
    return partial(_component({"aux": several}, "aux"), parts=listed)


def build_estimator(cfg: DictConfig) -> GradientEstimator:
    """The gradient estimator of a configuration.

    Args:
        cfg: a configuration as ``load_config`` composes it.

    Returns:
        The estimator, compiled where the configuration says so.

    Raises:
        ConfigError: if the components do not go together.
    """
    try:
        estimator = GradientEstimator(
            target=_checked(cfg, "target"),
            guess=_checked(cfg, "guess"),
            perturbation=_component(cfg, "perturb")(),
            engine=_component(cfg, "engine")(),
            train_auxiliaries=cfg.aux.trained,
            probe=cfg.probe,
            channels_last=cfg.channels_last,
        )
        if cfg.compile:
            estimator.compile(COMPILERS[cfg.compile])
    except ValueError as error:
        raise ConfigError(str(error)) from error
    return estimator


def _checked(cfg: DictConfig, group: str) -> Any:
    """A component, whose file says the same of it as its class.

    Raises:
        ConfigError: it does not.
    """
    component = _component(cfg, group)()
    for fact in FACTS[group]:
        said, true = says(cfg[group], fact), getattr(component, fact)
        if said != true:
            raise ConfigError(
                f"{group}.{fact}={said} is not what {cfg[group]._target_} is: accepted is {true}, or to leave it out"
            )
    return component


def check_components(configs: Iterable[DictConfig]) -> None:
    """Check that the components of every configuration go together.

    Raises:
        ConfigError: those of one do not.
    """
    parts = ("target", "guess", "perturb", "engine", "aux", "probe", "compile")
    for cfg in {str([cfg[part] for part in parts]): cfg for cfg in configs}.values():
        build_estimator(cfg)


def build_data(cfg: DictConfig) -> "LightningDataModule":
    """The data module of a configuration.

    Raises:
        ConfigError: a setting does not fit the data set, or its class is none that a run can use.
    """
    from lightning import LightningDataModule
    from lightning.pytorch.utilities.model_helpers import is_overridden

    target = cfg.data._target_
    takes = arguments("data", target)
    given = {**cfg.data, "seed": cfg.seed}
    left_out = {*FACTS["data"], *(() if takes is None else {*DATA, "seed"} - takes)}
    try:
        data = instantiate({name: value for name, value in given.items() if name not in left_out})
    except InstantiationException as error:
        # Hydra wraps what a constructor raises; the data set's own words are the better ones.
        if isinstance(error.__cause__, FglightError):
            raise error.__cause__ from None
        raise
    loaders = ("train_dataloader", "val_dataloader")
    if not isinstance(data, LightningDataModule) or not all(is_overridden(loader, data) for loader in loaders):
        raise ConfigError(
            f"data._target_={target} is not possible: accepted is a LightningDataModule with {' and '.join(loaders)}"
        )
    return data


def build_callbacks(cfg: DictConfig) -> "list[Callback]":
    """The callbacks of a configuration's run, beside those that every run has.

    Raises:
        ConfigError: one cannot be made, or does what a run does by itself.
    """
    from lightning import Callback
    from lightning.pytorch.callbacks import (
        BatchSizeFinder,
        Checkpoint,
        GradientAccumulationScheduler,
        LearningRateFinder,
        ProgressBar,
        StochasticWeightAveraging,
    )

    instead: dict[Any, str] = {
        Checkpoint: "checkpoints/last.ckpt is what an interrupted run goes on from",
        ProgressBar: "trainer.enable_progress_bar shows one",
        (BatchSizeFinder, GradientAccumulationScheduler): "data.batch_size is how many images a step takes",
        LearningRateFinder: "-m search=lr looks for learning rates",
        StochasticWeightAveraging: "the scheduler decides on learning rates",
    }
    callbacks = []
    for name, settings in cfg.callbacks.items():
        callback = _own("callbacks", name, settings)
        chosen = f"callbacks.{name}._target_={settings._target_}"
        if not isinstance(callback, Callback):
            raise ConfigError(f"{chosen} is not possible: accepted is a callback of Lightning's")
        for kind, words in instead.items():
            if isinstance(callback, kind):
                raise ConfigError(f"{chosen} cannot go with what a run does by itself: leave it out, {words}")
        callbacks.append(callback)
    return callbacks


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
    component = partial(_component(cfg, group), **settings)

    def make(argument: Any) -> Any:
        try:
            return component(argument)
        except (TypeError, ValueError) as error:
            raise ConfigError(f"{group}={cfg[group].name} is not possible with its settings: {error}") from error

    return make


def _component(cfg: Mapping[str, Any], group: str) -> partial:
    """The class that a group's ``_target_`` names, with the group's settings as arguments."""
    left_out = not_arguments(group)
    return instantiate({key: value for key, value in cfg[group].items() if key not in left_out}, _partial_=True)
