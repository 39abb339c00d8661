"""Composing a configuration, and checking it. Needs no torch."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import hydra
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf

from fglight.cell import Cell, says
from fglight.config.settings import CONFIG_DIR, GROUPS, SWEEP_SETTINGS, check_overrides, check_settings, of_sweeps
from fglight.errors import ConfigError
from fglight.paper.recipes import nearest, recipe
from fglight.text import plain


def _recipe(key: str, _root_: DictConfig) -> Any:
    return getattr(recipe(nearest(Cell.from_config(_root_), random=says(_root_.guess, "random"))), key)


def _folder(fact: str, _parent_: DictConfig) -> Any:
    from fglight.data.image_files import found  # PIL is needed for folders alone

    return found(Path(_parent_.root).expanduser(), fact)


def _texts(fact: str, _parent_: DictConfig) -> Any:
    from fglight.data.text_files import found

    settings = ("text", "label", "test")
    return found(Path(_parent_.root).expanduser(), fact, **{name: _parent_[name] for name in settings})


def _timm(fact: str, _root_: DictConfig) -> Any:
    from fglight.models.timm import images_of  # takes seconds

    return images_of(_root_.model.network)[fact]


def _gpus() -> int:
    import torch  # takes seconds, and only launchers ask

    return int(torch.cuda.is_available())


# ${recipe:lr} is the paper's learning rate for the chosen cell, ${cell:} the cell's name.
OmegaConf.register_new_resolver("recipe", _recipe, replace=True)
OmegaConf.register_new_resolver("cell", lambda _root_: str(Cell.from_config(_root_)), replace=True)
# ${folder:num_classes} is what data.root, a folder of images, tells of itself.
OmegaConf.register_new_resolver("folder", _folder, replace=True)
# ${texts:num_classes} is what data.root, a file of texts or a folder with some, tells of itself.
OmegaConf.register_new_resolver("texts", _texts, replace=True)
# ${timm:image_size}, ${timm:mean} and ${timm:std} are of the images that model.network of timm's was trained on.
OmegaConf.register_new_resolver("timm", _timm, replace=True)
# ${last:mine.Network,.} is Network: what a name ends with behind a separator.
OmegaConf.register_new_resolver("last", lambda name, mark: plain(str(name).rstrip(mark).split(mark)[-1]), replace=True)
# ${gpus:} is what a job asks of a launcher: 1 where this machine has a GPU, else 0.
OmegaConf.register_new_resolver("gpus", _gpus, replace=True)


def compose(overrides: Sequence[str] = ()) -> DictConfig:
    """Compose a configuration and check its settings, but not yet that its components go together.

    Arguments and errors are those of ``fglight.load_config``, which checks that, too.
    """
    check_overrides(overrides)
    GlobalHydra.instance().clear()
    with hydra.initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
        cfg = hydra.compose("config", list(overrides))
    for group in GROUPS:
        OmegaConf.set_struct(cfg[group], True)
    check_config(cfg)
    return cfg


def devices(cfg: DictConfig) -> int:
    """How many devices, and so processes, work on one run."""
    return cfg.trainer.devices if isinstance(cfg.trainer.devices, int) else len(cfg.trainer.devices)


def check_config(cfg: DictConfig) -> None:
    """Check everything that can be checked without data and without building anything.

    Raises:
        ConfigError: naming the first setting that is out of range, what it must be and its value.
    """
    check_settings(cfg)
    for setting in SWEEP_SETTINGS:
        if cfg.get(setting) is not None and cfg[setting] is not False:
            raise of_sweeps(setting, str(cfg[setting]).lower())
    if "images" in cfg.data and (cfg.data.get("train_images") or 0) > cfg.data.images[0]:
        raise ConfigError(
            f"data.train_images must be a whole number up to {cfg.data.images[0]}, or null, got {cfg.data.train_images}"
        )
    count = devices(cfg)
    if cfg.data.batch_size < 2 * count:
        raise ConfigError(
            f"data.batch_size must be {2 * count} or more for trainer.devices={cfg.trainer.devices}, which share a "
            f"batch, got {cfg.data.batch_size}"
        )
    if cfg.trainer.sync_batchnorm and cfg.engine.name == "forward":
        raise ConfigError("trainer.sync_batchnorm must be false with engine=forward, it has no derivative there")
    if cfg.trainer.sync_batchnorm and count > 1 and cfg.perturb.name == "weight_per_sample":
        raise ConfigError(
            "trainer.sync_batchnorm must be false with perturb=weight_per_sample, which normalises each process's "
            "images by their own statistics"
        )
    if cfg.compile == "cudagraphs" and count > 1:
        raise ConfigError(
            f"compile must be true or false with trainer.devices={cfg.trainer.devices}, got cudagraphs, for one GPU"
        )
    if cfg.compile and cfg.trainer.sync_batchnorm:
        raise ConfigError("trainer.sync_batchnorm must be false with compile")
    if cfg.compile and count > 1 and cfg.perturb.name == "activity_span":
        raise ConfigError(
            f"compile must be false with perturb=activity_span on trainer.devices={cfg.trainer.devices}, whose parts "
            f"of a batch may be of any size, got {str(cfg.compile).lower()}"
        )
    if cfg.aux.name == "linear" and cfg.aux.hidden is not None:
        raise ConfigError(f"aux.hidden must be null for aux=linear, got {cfg.aux.hidden}")
