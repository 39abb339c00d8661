"""What command lines ask of a sweep, and the configurations of its runs."""

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
