"""A run's settings: which of them can change its result, and which depart from how the paper trained its cell."""

import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from fglight.cell import FACTS, Cell, says
from fglight.config.fixed import FIXED
from fglight.config.settings import NO_RUN_HAS, choices
from fglight.errors import ConfigError
from fglight.paper.protocol import protocol
from fglight.paper.recipes import nearest
from fglight.runs.folder import CONFIG, read_config

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
)
"""Settings, or groups of them, that say where and how a run is done and watched, not what comes out of it.

Every other setting counts: a run that departs from the paper in one is not compared with the paper.
"""

OF_COST = ("checkpointing",)
"""Those of them that change what a step takes: a run with one lies apart, and is compared as if it had none."""

_NEUTRAL = {
    "callbacks": {},
    "micro_batches": 1,
    "checkpoint": "full",
    "exact_blocks": 1,
    "trained": "all",
    "lora.rank": 8,
    "lora.alpha": 16,
    "optim.block_lr": None,
    "optim.decay_vectors": True,
    "scheduler.warmup": 0,
    "trainer.max_forwards": None,
    "trainer.max_steps": -1,
    "trainer.fast_dev_run": False,
    **{f"trainer.{name}": value for name, (value, _) in FIXED.items()},
}
"""Values that are as if nothing were given."""

_AS_THE_PAPER = ("aux.hidden", "perturb.coefficient", "optim.dampening", "optim.nesterov", "data.images")
"""Settings that a run has as the paper did where it says nothing of them, or null."""


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


@dataclass(frozen=True)
class RunFacts:
    """What is known of a run when it starts, found out once and handed on.

    Attributes:
        cfg: its configuration.
        cell: what it trains.
        settings: its settings, as ``run_settings`` gives them.
        differences: those that depart from how the paper trained its cell, see there.
    """

    cfg: DictConfig
    cell: Cell
    settings: dict[str, Any]
    differences: dict[str, Any]

    @classmethod
    def of(cls, cfg: DictConfig) -> "RunFacts":
        """The facts of a configuration's run."""
        cell, settings = Cell.from_config(cfg), run_settings(cfg)
        departing = departures(settings, cell)
        used = {name: value for name, value in departing.items() if not within(name, unused(cell))}
        return cls(cfg, cell, settings, used)

    @property
    def named(self) -> dict[str, Any]:
        """Which run it is, as a record says it."""
        return {"cell": asdict(self.cell), "seed": self.cfg.seed}


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
    return dict(RunFacts.of(cfg).differences)


def unused(cell: Cell) -> list[str]:
    """The settings, or groups of them, that a cell makes no use of: a probe trains networks that nothing uses."""
    return ["probe", *(part for part in ("aux", "perturb") if not getattr(cell, part))]


def in_short(differing: Mapping[str, Any]) -> dict[str, Any]:
    """Differences for people: where a component's name differs, what it is and what it does not set are left out."""
    named = [name.removesuffix(".name") for name in differing if name.endswith(".name")]
    told = [f"{group}.{fact}" for group, facts in FACTS.items() for fact in facts]
    told += [f"{group}._target_" for group in named]
    return {
        name: value
        for name, value in differing.items()
        if not within(name, named) or (value is not None and name not in told)
    }


def departures(own: Mapping[str, Any], cell: Cell) -> dict[str, Any]:
    """As ``differences``, with the settings of components that the cell makes no use of.

    Args:
        own: a run's settings, as ``run_settings`` gives them.
        cell: what it is to train.
    """
    settings = flat(own)
    paper = flat(protocol(nearest(cell, random=own["guess"]["random"])))
    settings |= {name: paper.get(name) for name in _AS_THE_PAPER if settings.get(name) is None}
    return {name: settings.get(name) for name in _changed(settings, paper) if is_told(name) and name != "seed"}


def settings_of(cell: Cell) -> dict[str, Any]:
    """The paper's settings for a cell; components that it does not have are as they ship."""
    paper = nearest(cell, random=choices("guess")[cell.guess]["random"])
    own = [group for group in ("guess", "aux", "target") if getattr(cell, group) != getattr(paper, group)]
    return protocol(paper) | {group: choices(group)[getattr(cell, group)] for group in own}


def check_unchanged(settings: Mapping[str, Any], run_dir: Path, *, may_be_longer: bool = False) -> None:
    """Refuse to go on in a directory that was started with settings that lead to another result.

    Args:
        settings: what the run is to be done with, as ``run_settings`` gives them.
        run_dir: the directory; one without ``config.yaml`` is fine.
        may_be_longer: whether a larger ``trainer.max_epochs`` is no other setting: with all else the same, the schedule
            of the learning rate included, the first epochs are those that were trained.

    Raises:
        ConfigError: naming the settings that differ, or that ``config.yaml`` cannot be read.
    """
    if not (run_dir / CONFIG).exists():
        return
    try:
        before = flat(OmegaConf.to_container(read_config(run_dir)))
    except ConfigError as error:
        raise ConfigError(f"{error}: move its folder away") from error
    now = flat(settings)
    ours = ("fglight.data.image_folder", "fglight.data.TextDataModule")  # of which data.root is the data set
    own = ["data.root"] if now["data._target_"] in ours else []
    differing = [name for name in _changed(before, now) if has_effect(name) or name in own]
    epochs = "trainer.max_epochs"
    longer = may_be_longer and epochs in differing and now[epochs] > before.get(epochs, math.inf)
    if longer and now.get("trainer.max_forwards") is None:  # which the schedule's epochs share among them
        differing.remove(epochs)
    if differing:
        told = (f"{name}={before.get(name, '(none)')} there, {now.get(name, '(none)')} now" for name in differing)
        other = ", or start a new run from its weights by ckpt_path" if longer else ""
        raise ConfigError(
            f"{os.path.relpath(run_dir)} holds a run with other settings ({'; '.join(told)}): "
            f"restore these settings, or move the folder away{other}"
        )


def flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Settings by their full names; lists are values."""
    found: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping) and value:
            found |= flat(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = value
    return found


def _changed(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """The full names of settings that two have differently."""
    names = sorted(one.keys() | other.keys())
    return [name for name in names if one.get(name, _NEUTRAL.get(name)) != other.get(name, _NEUTRAL.get(name))]


def within(setting: str, names: Iterable[str]) -> bool:
    """Whether a setting is one of these, or belongs to a group of these."""
    return any(setting == name or setting.startswith(f"{name}.") for name in names)
