"""What command lines ask of a sweep, the configurations of its runs, and a machine on which parts take known times."""

from typing import ClassVar

import yaml
from helpers import compose
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig

from fglight.config import check_config
from fglight.config import compose as config_of
from fglight.config.settings import CONFIG_DIR
from fglight.sweeps.composing import Composer
from fglight.sweeps.jobs import Job, by_name, plan_jobs
from fglight.sweeps.planning.timing import Seconds
from fglight.sweeps.request import Request, parse


def request(*overrides: str) -> Request | None:
    return parse(OverridesParser.create().parse_overrides(list(overrides)))


def plan(*overrides: str) -> list[Job]:
    asked = request(*overrides)
    assert asked is not None
    return plan_jobs(asked)


COMPOSER = Composer(config_of)


def configured(overrides: list[str]) -> DictConfig:
    """The configuration of a run, checked; much of it is composed once for all."""
    cfg = COMPOSER(overrides)
    check_config(cfg)
    return cfg


def hydra_config(overrides: list[str]) -> DictConfig:
    """What Hydra composes for a run of a sweep, with the node ``hydra``."""
    with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
        return hydra_compose("config", overrides, return_hydra_config=True)


def configs_of(*overrides: str) -> dict[str, DictConfig]:
    """The configuration of each cell that is planned."""
    configs = {}
    for name, (job, *_) in by_name(plan(*overrides)).items():
        cell = job.cell
        chosen = {
            key: getattr(cell, key) for key in ("data", "target", "guess", "aux", "perturb") if getattr(cell, key)
        }
        settings = {"model.width": cell.width, **{key: yaml.safe_load(value) for key, value in job.settings}}
        configs[name] = compose(settings, **chosen, model=f"resnet18_{cell.blocks}")
    return configs


class Machine:
    """Stands in for a ``Network`` whose parts take known times, and counts what is timed.

    A step is a factor of the network's, times what passes and auxiliary networks take.
    """

    timed: ClassVar[list[str]] = []

    def __init__(self, cfg: DictConfig, *, auxiliaries: bool = False) -> None:
        self.speed = cfg.model.width**2 * cfg.data.image_size**2
        self.aux = auxiliaries_cost(cfg) if auxiliaries else 0

    def backpropagation(self, enough: float) -> Seconds:
        self.timed.append("backpropagation")
        return Seconds(1 * self.speed, 2 * self.speed)

    def training(self, cfg: DictConfig, enough: float) -> Seconds:
        self.timed.append("training")
        own = passes_cost(cfg) + self.aux
        return Seconds(own * self.speed, 2 * own * self.speed)

    def testing(self, enough: float, *, auxiliaries: bool = False) -> Seconds:
        own = self.speed * (1 + self.aux / 3)
        return Seconds(own, 2 * own)

    def auxiliaries(self, cfg: DictConfig) -> Seconds:
        self.timed.append("auxiliaries")
        train = auxiliaries_cost(cfg)
        return Seconds(train * self.speed, 2 * train * self.speed)


def passes_cost(cfg: DictConfig) -> float:
    guess = {"exact": 1, "local": 2, "ntk": 2, "fixed_ntk": 2, "gaussian": 3, "rademacher": 3, "own": 7}[cfg.guess.name]
    target = {"global": 1, "local": 0.5, "intermediate": 2}[cfg.target.name]
    space = {"activity": 1, "weight": 1.5}.get(cfg.perturb.name, 4) if guess > 1 else 1
    return guess + target * space


def auxiliaries_cost(cfg: DictConfig) -> float:
    if cfg.target.name == "global" and cfg.guess.name in ("exact", "gaussian", "rademacher"):
        return 0
    untrained = 0.5 if cfg.guess.name in ("ntk", "fixed_ntk") else 1
    return untrained * {"cnn": 0.25, "mlp": 0.75, "linear": 0.125, "predsim": 0.5}[cfg.aux.name]
