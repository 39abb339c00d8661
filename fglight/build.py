"""From a configuration to objects."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from inspect import isclass
from typing import TYPE_CHECKING, Any

import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig
from torch import Tensor, nn

from fglight.cell import FACTS, says
from fglight.config import compose
from fglight.config.settings import CUTTING, DATA, arguments, choices, is_cut, not_arguments, parameters
from fglight.errors import ConfigError, FglightError, one_line
from fglight.estimators import GradientEstimator
from fglight.estimators.engines.compiled import COMPILERS
from fglight.models import BlockNetwork, Loss, exact_blocks
from fglight.models.any import any_network
from fglight.models.trained import choose_trained

TOLD = ("num_classes", "in_channels", "image_size")
"""What a network is told of the data set, where its class takes it."""

if TYPE_CHECKING:  # takes seconds, and plans do without
    from lightning import LightningDataModule


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
    made, (takes, takes_any) = component(cfg, "model"), parameters("model", target)
    auxiliary = partial(_auxiliary(cfg), num_classes=cfg.data.num_classes)
    adapt = partial(choose_trained, trained=cfg.trained, rank=cfg.lora.rank, alpha=cfg.lora.alpha)
    adapts = "adapt" in takes or is_cut(cfg.model)  # before it is cut
    if is_cut(cfg.model):
        own = {name: value for name, value in made.keywords.items() if name not in CUTTING}
        own |= {name: cfg.data[name] for name in TOLD if name in takes}
        cutting = {name: value for name, value in made.keywords.items() if name in CUTTING}
        made = partial(any_network, partial(made.func, **own), f"model._target_={target}", **cutting)
        told = {"example": examples(cfg, 2)}
    elif "example" in takes:
        told = {"num_classes": cfg.data.num_classes, "example": examples(cfg, 2)}
    elif cfg.data.get("tokens") and target.startswith("fglight."):
        raise ConfigError(f"token ids are for model=transformers or model=any, got model={cfg.model.name}")
    else:
        told = {name: cfg.data[name] for name in TOLD if takes_any or name in takes}
    try:
        network = made(auxiliary=auxiliary, **told, **({"adapt": adapt} if adapts else {}))
        if isinstance(network, BlockNetwork) and not adapts:
            adapt(network)
    except ValueError as error:
        raise ConfigError(one_line(error)) from error
    if not isinstance(network, BlockNetwork):
        raise ConfigError(
            f"model._target_ must be what gives a fglight.models.BlockNetwork, got {target}: model=any cuts any module"
        )
    network.use_loss(build_loss(cfg))
    try:
        return exact_blocks(network, cfg.exact_blocks)
    except ValueError as error:
        raise ConfigError(str(error)) from error


def examples(cfg: DictConfig, count: int) -> Tensor:
    """Samples at random, on a CPU and always the same, as a network of a configuration takes them.

    Args:
        cfg: the configuration.
        count: how many.

    Returns:
        Images ``(count, channels, height, width)``; vectors ``(count, channels)``, where their size is 1; or ids and
        masks of texts, ``(count, 2, length)`` of integers.
    """
    generator, size = torch.Generator("cpu").manual_seed(0), cfg.data.image_size
    with torch.device("cpu"):
        if cfg.data.get("tokens"):
            ids = torch.randint(2, (count, 1, size), generator=generator)
            return torch.cat([ids, torch.ones_like(ids)], 1)
        shape = (cfg.data.in_channels, size, size) if size > 1 else (cfg.data.in_channels,)
        return torch.randn(count, *shape, generator=generator)


def build_loss(cfg: DictConfig) -> Loss:
    """The loss of a configuration, for blocks that have none of their own.

    Raises:
        ConfigError: it cannot be made.
    """
    loss = component(cfg, "loss")
    try:
        return loss() if isclass(loss.func) else loss
    except (TypeError, ValueError) as error:
        raise ConfigError(f"loss={cfg.loss.name} is not possible with its settings: {one_line(error)}") from error


def _auxiliary(cfg: DictConfig) -> Callable[..., nn.Module]:
    """What makes a block's auxiliary network, or several whose settings are those of their files."""
    if "parts" not in cfg.aux:
        return component(cfg, "aux")
    several, parts = {key: value for key, value in cfg.aux.items() if key != "parts"}, cfg.aux.parts
    listed = [component({"aux": choices("aux")[part]}, "aux") for part in parts]
    return partial(component({"aux": several}, "aux"), parts=listed)


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
            perturbation=component(cfg, "perturb")(),
            engine=component(cfg, "engine")(),
            train_auxiliaries=cfg.aux.trained,
            probe=cfg.probe,
            checkpointing=cfg.checkpointing,
            channels_last=cfg.channels_last,
            micro_batches=cfg.micro_batches,
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
    made = component(cfg, group)()
    for fact in FACTS[group]:
        said, true = says(cfg[group], fact), getattr(made, fact)
        if said != true:
            raise ConfigError(
                f"{group}.{fact} must be {true}, which {cfg[group]._target_} is, or be left out, got {said}"
            )
    return made


def check_components(configs: Iterable[DictConfig]) -> None:
    """Check that the components of every configuration go together.

    Raises:
        ConfigError: those of one do not.
    """
    parts = ("target", "guess", "perturb", "engine", "aux", "probe", "checkpointing", "micro_batches", "compile")
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
        raise ConfigError(f"data._target_ must be a LightningDataModule with {' and '.join(loaders)}, got {target}")
    return data


def component(cfg: Mapping[str, Any], group: str) -> partial:
    """The class that a group's ``_target_`` names, with the group's settings as arguments."""
    left_out = not_arguments(group)
    return instantiate({key: value for key, value in cfg[group].items() if key not in left_out}, _partial_=True)
