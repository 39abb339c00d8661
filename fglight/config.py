"""From configuration to objects: composing, checking and building."""

import math
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from fglight.cells import Cell, recipe
from fglight.errors import ConfigError
from fglight.estimators import GradientEstimator
from fglight.models import BlockNetwork

PACKAGE = Path(__file__).parent
CONFIG_DIR = next(folder for folder in (PACKAGE / "conf", PACKAGE.parent / "conf") if folder.is_dir())
"""The folder with ``config.yaml``: inside an installed package, beside it in a checkout."""

GROUPS = tuple(sorted(folder.name for folder in CONFIG_DIR.iterdir() if folder.is_dir() and folder.name != "hydra"))
"""What a choice is made of on the command line: ``aux``, ``data``, ``engine`` and so on."""

PRECISIONS = ("32-true", "64-true", "bf16-mixed", "bf16-true")

# ${recipe:lr} is the paper's learning rate for the chosen cell, ${cell:} the cell's name.
OmegaConf.register_new_resolver(
    "recipe", lambda key, _root_: getattr(recipe(Cell.from_config(_root_)), key), replace=True
)
OmegaConf.register_new_resolver("cell", lambda _root_: str(Cell.from_config(_root_)), replace=True)
# ${gpus:} is what a job asks of a launcher: 1 where this machine has a GPU, else 0.
OmegaConf.register_new_resolver("gpus", lambda: int(torch.cuda.is_available()), replace=True)


def load_config(overrides: list[str] | None = None) -> DictConfig:
    """Compose and check a configuration as ``train.py`` does.

    Args:
        overrides: Hydra overrides on ``conf/config.yaml``, such as ``["guess=ntk", "model.width=0.5"]``.

    Raises:
        ConfigError: if a setting, or a combination of settings, means nothing.
        hydra.errors.HydraException: if a group or choice does not exist; it lists what does.
    """
    check_choices(overrides or [])
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
        cfg = compose("config", overrides or [])
    check_config(cfg)
    return cfg


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
        estimator = _component(cfg.engine)(
            target=_component(cfg.target)(),
            guess=_component(cfg.guess)(),
            perturbation=_component(cfg.perturb)(),
            train_auxiliaries=cfg.aux.trained,
            probe=cfg.probe,
        )
        if cfg.compile:
            estimator.compile()
    except ValueError as error:
        raise ConfigError(str(error)) from error
    return estimator


def devices(cfg: DictConfig) -> int:
    """How many devices, and so processes, work on one run."""
    return cfg.trainer.devices if isinstance(cfg.trainer.devices, int) else len(cfg.trainer.devices)


def check_choices(overrides: Iterable[str]) -> None:
    """Check that no group is left without a choice, of which Hydra says nothing that could be understood.

    Args:
        overrides: a command line, Hydra's own flags included.

    Raises:
        ConfigError: naming the group and what can be chosen.
    """
    for override in overrides:
        group, _, value = override.lstrip("+~").partition("=")
        if group in GROUPS and (override.startswith("~") or "null" in value.lower().split(",")):
            raise _no_choice(group, override)


def check_config(cfg: DictConfig) -> None:
    """Check everything that can be checked without data.

    Raises:
        ConfigError: naming the first setting that is out of range, its value and what is accepted.
    """
    for group in GROUPS:
        if not OmegaConf.is_dict(cfg.get(group)):
            raise _no_choice(group, f"{group}={'null' if cfg.get(group) is None else cfg.get(group)}")
    for setting, accepts, accepted in _RULES:
        value = OmegaConf.select(cfg, setting)
        try:
            fits = accepts(value)
        except TypeError:
            fits = False
        if not fits:
            raise ConfigError(f"{setting}={value} is not possible: accepted is {accepted}")
    smallest = 32 if cfg.model.stem == "imagenet" else 8  # the factor by which the network shrinks images
    if cfg.data.image_size < smallest:
        raise ConfigError(
            f"data.image_size={cfg.data.image_size} is too small for the network: with model.stem={cfg.model.stem} "
            f"accepted are images of {smallest}x{smallest} and larger"
        )
    count = devices(cfg)
    if cfg.data.batch_size < 2 * count:
        raise ConfigError(
            f"data.batch_size={cfg.data.batch_size} is too small for trainer.devices={cfg.trainer.devices}, which "
            f"share a batch: accepted is {2 * count} or more"
        )
    if cfg.trainer.sync_batchnorm and cfg.engine.name == "forward":
        raise ConfigError(
            "trainer.sync_batchnorm=true has no forward-mode derivative: accepted is false with engine=forward"
        )
    if cfg.compile and cfg.trainer.sync_batchnorm:
        raise ConfigError("trainer.sync_batchnorm=true cannot go with compile=true: accepted is false for one of them")
    if cfg.compile and count > 1 and cfg.perturb.name == "activity_span":
        raise ConfigError(
            f"compile=true cannot go with perturb=activity_span on trainer.devices={cfg.trainer.devices}, whose "
            "parts of a batch may be of any size: accepted is compile=false"
        )
    if cfg.aux.name == "linear" and cfg.aux.hidden is not None:
        raise ConfigError(f"aux.hidden={cfg.aux.hidden} means nothing for aux=linear: accepted is null")
    build_estimator(cfg)


def _no_choice(group: str, override: str) -> ConfigError:
    choices = sorted(file.stem for file in (CONFIG_DIR / group).glob("*.yaml"))
    return ConfigError(f"{override} is not possible, a run needs one: accepted is {group}={' or '.join(choices)}")


def _whole(minimum: int) -> Callable[[object], bool]:
    return lambda value: type(value) is int and value >= minimum


def _number(accepts: Callable[[float], bool]) -> Callable[[object], bool]:
    return lambda value: type(value) in (int, float) and math.isfinite(value) and accepts(value)


def _flag(value: object) -> bool:
    return type(value) is bool


def _tag(value: object) -> bool:
    """Whether Weights & Biases takes it as a tag."""
    return type(value) in (str, int, float) and 1 <= len(str(value)) <= 64


_RULES: list[tuple[str, Callable[[object], bool], str]] = [
    ("seed", lambda value: _whole(0)(value) and value < 2**32, "a whole number from 0 to 2**32 - 1"),
    ("probe", _flag, "true or false"),
    ("cosine", _flag, "true or false"),
    ("compile", _flag, "true or false"),
    ("channels_last", _flag, "true or false"),
    ("model.width", _number(lambda value: value * 64 >= 1), "a number from 1/64 on, which leaves one channel"),
    ("model.stem", lambda value: value in ("cifar", "imagenet"), "cifar or imagenet"),
    ("aux.hidden", lambda value: value is None or _whole(1)(value), "null (the paper's) or a whole number from 1 on"),
    ("aux.trained", _flag, "true or false"),
    ("data.num_classes", _whole(2), "a whole number from 2 on"),
    ("data.in_channels", _whole(1), "a whole number from 1 on"),
    ("data.image_size", _whole(1), "a whole number from 1 on"),
    ("data.batch_size", _whole(2), "a whole number from 2 on (batch norm needs two)"),
    ("optim.lr", _number(lambda value: value > 0), "a positive number"),
    ("optim.lr_step", _whole(1), "a whole number of epochs from 1 on"),
    ("optim.lr_gamma", _number(lambda value: 0 < value <= 1), "a number above 0, up to 1"),
    ("optim.momentum", _number(lambda value: 0 <= value < 1), "a number from 0 to below 1"),
    ("optim.weight_decay", _number(lambda value: value >= 0), "a number from 0 on"),
    ("optim.fused", lambda value: value is None or _flag(value), "true, false or null"),
    ("trainer.max_epochs", _whole(1), "a whole number from 1 on"),
    (
        "trainer.devices",
        lambda value: _whole(1)(value) or (OmegaConf.is_list(value) and len(value) > 0 and all(map(_whole(0), value))),
        "a number of devices, or their indices as in [0,1]",
    ),
    ("trainer.strategy", lambda value: value in ("auto", "ddp"), "auto or ddp"),
    ("trainer.sync_batchnorm", _flag, "true or false"),
    ("trainer.log_every_n_steps", _whole(1), "a whole number from 1 on"),
    ("trainer.precision", lambda value: value in PRECISIONS, ", ".join(PRECISIONS)),
    (
        "logger.mode",
        lambda value: value in ("offline", "online", "disabled"),
        "offline, online or disabled (where it is not given, WANDB_MODE in the environment counts)",
    ),
    *(
        (f"{group}.name", _tag, "a name of 1 to 64 characters, which is a tag on Weights & Biases")
        for group in ("data", "model", "target", "guess", "aux", "perturb")
    ),
    (
        "logger.tags",
        lambda value: OmegaConf.is_list(value) and all(map(_tag, value)),
        "a list of tags of 1 to 64 characters",
    ),
    (
        "logger.project",
        lambda value: value is None or (1 <= len(str(value)) <= 128 and not set("/\\#?%:") & set(str(value))),
        "a name of 1 to 128 characters, none of them / \\ # ? % or :",
    ),
]


def _component(node: DictConfig) -> Callable:
    """The class that a node's ``_target_`` names, with the node's other settings as arguments."""
    settings = {key: value for key, value in node.items() if key not in ("name", "trained")}
    return instantiate(settings, _partial_=True)
