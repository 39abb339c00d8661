"""From a configuration to objects."""

from collections.abc import Callable
from functools import partial

from hydra.utils import instantiate
from omegaconf import DictConfig

from fglight.errors import ConfigError
from fglight.estimators import GradientEstimator
from fglight.models import BlockNetwork


def build_model(cfg: DictConfig) -> BlockNetwork:
    """The network of a configuration, freshly initialised from torch's default generator."""
    auxiliary = partial(
        _component(cfg.aux), num_classes=cfg.data.num_classes, blocks=cfg.model.blocks, width=cfg.model.width
    )
    return _component(cfg.model)(
        auxiliary=auxiliary, num_classes=cfg.data.num_classes, in_channels=cfg.data.in_channels
    )


def build_estimator(cfg: DictConfig) -> GradientEstimator:
    """The gradient estimator of a configuration.

    Raises:
        ConfigError: if the components do not go together.
    """
    try:
        estimator = GradientEstimator(
            target=_component(cfg.target)(),
            guess=_component(cfg.guess)(),
            perturbation=_component(cfg.perturb)(),
            engine=_component(cfg.engine)(),
            train_auxiliaries=cfg.aux.trained,
            probe=cfg.probe,
            channels_last=cfg.channels_last,
        )
        if cfg.compile:
            estimator.compile()
    except ValueError as error:
        raise ConfigError(str(error)) from error
    return estimator


def _component(node: DictConfig) -> Callable:
    """The class that a node's ``_target_`` names, with the node's other settings as arguments."""
    settings = {key: value for key, value in node.items() if key not in ("name", "trained")}
    return instantiate(settings, _partial_=True)
