"""A run's settings: which of them can change its result, and which depart from how the paper trained its cell."""

import os
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf

from fglight.cell import FACTS, Cell, says
from fglight.config.fixed import FIXED
from fglight.config.settings import MOVED, NO_RUN_HAS, choices, defaults, root_file
from fglight.errors import ConfigError, one_line
from fglight.paper.recipes import MODELS, nearest

WITHOUT_EFFECT = (
    "logger",
    "cosine",
    "measure",
    "compile",
    "checkpointing",
    "channels_last",
    "optim.fused",
    "data.root",
    "data.download",
    "data.num_workers",
    "trainer.accelerator",
    "trainer.benchmark",
    "trainer.detect_anomaly",
    "trainer.deterministic",
    "trainer.enable_model_summary",
    "trainer.enable_progress_bar",
    "trainer.inference_mode",
    "trainer.log_every_n_steps",
    "trainer.profiler",
    "trainer.strategy",
    *(f"{group}.{fact}" for group, facts in FACTS.items() for fact in facts),
)
"""Settings, or groups of them, that say where and how a run is done and watched, not what comes out of it.

Every other setting counts: a run that departs from the paper in one is not compared with the paper.
"""

OF_COST = ("checkpointing",)
"""Those of them that change what a step takes: a run with one lies apart, and is compared as if it had none."""

_NEUTRAL = {
    "callbacks": {},
    "trainer.max_steps": -1,
    "trainer.fast_dev_run": False,
    **{f"trainer.{name}": value for name, (value, _) in FIXED.items()},
}
"""Values that are as if nothing were given."""

_RENAMED = {
    "fglight.models.ResNet18": "fglight.models.BlockwiseResNet",
    "fglight.estimators.GradientEstimator": "fglight.estimators.ReverseMode",
    "fglight.estimators.ForwardModeEstimator": "fglight.estimators.ForwardMode",
}
"""Classes by the names that runs of earlier versions have on disk."""


def has_effect(setting: str) -> bool:
    """Whether a setting, by its full name, can change a run's result."""
    return not within(setting, WITHOUT_EFFECT)


def is_told(setting: str) -> bool:
    """Whether a setting, by its full name, sets runs apart: by their results, or by what they cost."""
    return has_effect(setting) or setting in OF_COST


def run_settings(cfg: DictConfig) -> dict[str, Any]:
    """A run's settings, resolved, as ``config.yaml`` in its directory holds them."""
    settings = {
        key: OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
        for key, value in cfg.items()
        if key not in ("hydra", *NO_RUN_HAS)
    }
    for group in ("guess", "target"):  # so that who reads them needs no class
        settings[group] |= {fact: says(cfg[group], fact) for fact in FACTS[group]}
    if isinstance(settings["trainer"]["devices"], list):  # which ones they are has no effect
        settings["trainer"]["devices"] = len(settings["trainer"]["devices"])
    return settings


def differences(cfg: DictConfig) -> dict[str, Any]:
    """The settings in which a run departs from how the paper trained its cell.

    The cell is what a configuration says of data set, network, width, target, guess, auxiliary network and
    perturbation; it need not be one of the paper's. A component that the paper does not have departs in all that it
    sets. Settings of components that the cell makes no use of do not count.

    Args:
        cfg: a configuration as ``load_config`` composes it.

    Returns:
        Values by the full names of their settings, ``{"data.augment": False}``; empty for a run like the paper's.
    """
    cell = Cell.from_config(cfg)
    # A probe trains auxiliary networks that nothing uses.
    unused = ["probe", *(part for part in ("aux", "perturb") if not getattr(cell, part))]
    return {name: value for name, value in departures(cfg).items() if not within(name, unused)}


def in_short(differing: Mapping[str, Any]) -> dict[str, Any]:
    """Differences for people: where a component's name differs, its class and what it does not set are left out."""
    named = [name.removesuffix(".name") for name in differing if name.endswith(".name")]
    return {
        name: value
        for name, value in differing.items()
        if not within(name, named) or (value is not None and not name.endswith("._target_"))
    }


def departures(cfg: DictConfig) -> dict[str, Any]:
    """As ``differences``, with the settings of components that the cell makes no use of."""
    settings, paper = flat(run_settings(cfg)), _paper(cfg)
    return {
        name: settings.get(name)
        for name in sorted(settings.keys() | paper.keys())
        if is_told(name) and name != "seed" and _value(settings, name) != _value(paper, name)
    }


def check_unchanged(cfg: DictConfig, run_dir: Path) -> None:
    """Refuse to go on in a directory that was started with settings that lead to another result.

    Args:
        cfg: what the run is to be done with.
        run_dir: the directory; one without ``config.yaml`` is fine.

    Raises:
        ConfigError: naming the settings that differ, or that ``config.yaml`` cannot be read.
    """
    path = run_dir / "config.yaml"
    if not path.exists():
        return
    try:
        before = flat(OmegaConf.to_container(OmegaConf.load(path)))
    except (OSError, ValueError, AttributeError, yaml.YAMLError) as error:
        reason = one_line(error)
        raise ConfigError(f"{os.path.relpath(path)} cannot be read ({reason}): move its folder away") from error
    before = {
        MOVED.get(name, name): _RENAMED.get(value, value) if isinstance(value, str) else value
        for name, value in before.items()
    }
    now, paper = flat(run_settings(cfg)), _paper(cfg)
    before = {name: value for name, value in paper.items() if _has(before, paper, name)} | before
    own = ["data.root"] if now["data._target_"] == "fglight.data.image_folder" else []  # which is the data set there
    differing = [
        f"{name}={before.get(name, '(none)')} there, {now.get(name, '(none)')} now"
        for name in sorted(before.keys() | now.keys())
        if (has_effect(name) or name in own) and _value(before, name) != _value(now, name)
    ]
    if differing:
        raise ConfigError(
            f"{os.path.relpath(run_dir)} holds a run with other settings ({'; '.join(differing)}): "
            "restore these settings, or move the folder away"
        )


def _has(before: Mapping[str, Any], paper: Mapping[str, Any], name: str) -> bool:
    """Whether a run that says nothing of a setting has it as the paper does: earlier versions did not have all."""
    target = f"{name.partition('.')[0]}._target_"
    return before.get(target, paper.get(target)) == paper.get(target)


def flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Settings by their full names; lists are values."""
    found: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping) and value:
            found |= flat(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = value
    return found


def _value(settings: Mapping[str, Any], name: str) -> Any:
    return settings.get(name, _NEUTRAL.get(name))


def within(setting: str, names: Iterable[str]) -> bool:
    """Whether a setting is one of these, or belongs to a group of these."""
    return any(setting == name or setting.startswith(f"{name}.") for name in names)


def paper_config(cell: Cell) -> DictConfig:
    """The configuration with which the paper trained a cell, composed from the cell alone.

    Args:
        cell: a cell of the paper's components, as ``nearest`` gives it.
    """
    chosen = defaults() | {"data": cell.data, "model": MODELS[cell.blocks], "target": cell.target, "guess": cell.guess}
    chosen |= {group: getattr(cell, group) for group in ("aux", "perturb") if getattr(cell, group)}
    root = {name: value for name, value in root_file().items() if name not in ("defaults", "hydra", *NO_RUN_HAS)}
    cfg = OmegaConf.create({**root, **{group: choices(group)[choice] for group, choice in chosen.items()}})
    cfg.model.width = cell.width
    return cfg


def _paper(cfg: DictConfig) -> Mapping[str, Any]:
    """The paper's settings for the cell of a configuration, by their full names."""
    return _paper_settings(nearest(Cell.from_config(cfg), random=says(cfg.guess, "random")))


@cache
def _paper_settings(cell: Cell) -> Mapping[str, Any]:
    return flat(run_settings(paper_config(cell)))
