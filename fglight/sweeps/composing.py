"""Composing the configurations of a sweep, each choice once instead of all files anew for every run."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import cache, cached_property
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from rich.console import Console
from rich.progress import track

from fglight.config import check_config
from fglight.config.settings import GROUPS


class Composer:
    """Gives the configurations that Hydra composes.

    Where each choice is a node of its own, a configuration is put together from nodes that are known, resolved and
    without the node ``hydra``. Hydra composes it where a choice changes more than its own group, where overrides do
    more than choose and set, and where something cannot be resolved, as what follows from Hydra's own settings.

    Args:
        compose: Hydra's composition, of a list of overrides.
    """

    def __init__(self, compose: Callable[[list[str]], DictConfig]) -> None:
        self._compose = compose
        self._nodes: dict[tuple[str, str], DictConfig | None] = {}  # None: a choice that changes more than its group

    def __call__(self, overrides: list[str]) -> DictConfig:
        """The configuration of a list of overrides.

        Raises:
            hydra.errors.HydraException: as Hydra does.
        """
        parsed = [_parsed(text) for text in overrides]
        choices = {one.key_or_group: one.value() for one in parsed if one.key_or_group in GROUPS}
        if all(one.type is OverrideType.CHANGE and one.package is None for one in parsed) and self._know(choices):
            cfg = self._base.copy()
            with suppress(OmegaConfBaseException):
                for group, choice in choices.items():
                    cfg[group] = self._nodes[group, str(choice)]
                for one in parsed:
                    if one.key_or_group not in GROUPS:
                        OmegaConf.update(cfg, one.key_or_group, one.value())
                if "${hydra:" not in str(cfg):  # which would give the sweep's here, not the run's
                    OmegaConf.resolve(cfg)  # once, since interpolations take longest
                    return cfg
        return self._compose(overrides)

    @cached_property
    def _base(self) -> DictConfig:
        """The configuration of no overrides."""
        composed = self._compose([])
        base = OmegaConf.masked_copy(composed, [key for key in composed if key != "hydra"])
        OmegaConf.set_struct(base, True)
        return base

    def _know(self, choices: Mapping[str, Any]) -> bool:
        """Whether choices change their groups alone; those that are new are composed, all at once."""
        if not all(isinstance(choice, str) for choice in choices.values()):
            return False
        new = dict(choice for choice in choices.items() if choice not in self._nodes)
        if new:
            composed = self._compose([f"{group}={choice}" for group, choice in new.items()])
            alone = _rest(composed, new) == _rest(self._base, new)
            self._nodes |= {(group, choice): composed[group] if alone else None for group, choice in new.items()}
        return all(self._nodes[choice] is not None for choice in choices.items())


def checked(compose: Callable[[list[str]], DictConfig], batch: Iterable[Sequence[str]]) -> list[DictConfig]:
    """The configurations of lists of overrides, checked.

    Args:
        compose: makes the configuration of one, such as a ``Composer``.
        batch: the lists.

    Raises:
        ConfigError: a setting of one is not possible.
    """
    configs = []
    for overrides in track(batch, "checking all configurations", transient=True, disable=not Console().is_terminal):
        configs.append(compose(list(overrides)))
        check_config(configs[-1])
    from fglight.build import check_components  # loads torch, after all that can be refused without

    check_components(configs)
    return configs


@cache
def _parsed(text: str) -> Override:
    return OverridesParser.create().parse_override(text)


def _rest(cfg: DictConfig, groups: Iterable[str]) -> dict[str, Any]:
    return {key: value for key, value in OmegaConf.to_container(cfg).items() if key not in ("hydra", *groups)}
