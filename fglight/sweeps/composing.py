"""Composing the configurations of a sweep, each choice once instead of all files anew for every run."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from copy import deepcopy
from functools import cache, cached_property
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType
from omegaconf import DictConfig, OmegaConf, flag_override
from omegaconf.errors import OmegaConfBaseException

from fglight.config import check_config
from fglight.config.settings import GROUPS


class Composer:
    """Gives the configurations that Hydra composes.

    Where each choice is a node of its own, a configuration is put together from nodes that are known, resolved and
    without the node ``hydra``. Hydra composes it where a choice changes more than its own group, or a setting follows
    from Hydra's own.

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
        cfg = self._assembled([_parsed(text) for text in overrides])
        if cfg is None:
            return self._compose(overrides)
        with suppress(OmegaConfBaseException):  # which checking the configuration tells in a line
            OmegaConf.resolve(cfg)  # once, since interpolations take longest
        return cfg

    @cached_property
    def _base(self) -> DictConfig:
        """The configuration of no overrides."""
        return _without(self._compose([]), ["hydra"])

    @cached_property
    def _root(self) -> DictConfig:
        """The same without its groups."""
        return _without(self._base.copy(), GROUPS)

    @cached_property
    def _alone(self) -> bool:
        """Whether nothing in it follows from Hydra's own settings."""
        return "${hydra" not in OmegaConf.to_yaml(self._base)

    def _assembled(self, overrides: Iterable[Override]) -> DictConfig | None:
        """The configuration from known nodes; None where that cannot be."""
        chosen: dict[str, str] = {}
        settings: list[Override] = []
        for override in overrides:
            if override.package is not None or override.is_hydra_override() or "${hydra" in str(override.input_line):
                return None
            if override.key_or_group not in GROUPS:
                settings.append(override)
            elif _is_choice(override):
                chosen[override.key_or_group] = str(override.value())
            else:
                return None
        if not self._alone:
            return None
        self._learn(dict(choice for choice in chosen.items() if choice not in self._nodes))
        nodes = {group: self._nodes[group, choice] for group, choice in chosen.items()}
        if None in nodes.values():
            return None
        cfg = deepcopy(self._root)
        with flag_override(cfg, ["struct", "readonly"], False):
            for group in GROUPS:
                cfg[group] = nodes.get(group, self._base[group])
        ConfigLoaderImpl._apply_overrides_to_config(settings, cfg)
        return cfg

    def _learn(self, choices: Mapping[str, str]) -> None:
        """Get to know choices by composing them, all at once."""
        if not choices:
            return
        composed = _without(self._compose([f"{group}={choice}" for group, choice in choices.items()]), ["hydra"])
        alone = "${hydra" not in OmegaConf.to_yaml(composed) and _rest(composed, choices) == _rest(self._base, choices)
        self._nodes |= {(group, choice): composed[group] if alone else None for group, choice in choices.items()}


def checked(compose: Callable[[list[str]], DictConfig], batch: Iterable[Sequence[str]]) -> list[DictConfig]:
    """The configurations of lists of overrides, checked.

    Args:
        compose: makes the configuration of one, such as a ``Composer``.
        batch: the lists.

    Raises:
        ConfigError: a setting of one is not possible.
    """
    configs = [compose(list(overrides)) for overrides in batch]
    for cfg in configs:
        check_config(cfg)
    from fglight.build import check_components  # loads torch, after all that can be refused without

    check_components(configs)
    return configs


@cache
def _parsed(text: str) -> Override:
    return OverridesParser.create().parse_override(text)


def _is_choice(override: Override) -> bool:
    """Whether it is of the kind guess=local."""
    of_group = override.key_or_group in GROUPS and override.package is None
    return of_group and override.type is OverrideType.CHANGE and isinstance(override.value(), str)


def _without(cfg: DictConfig, keys: Iterable[str]) -> DictConfig:
    with flag_override(cfg, ["struct", "readonly"], False):
        for key in keys:
            cfg.pop(key, None)
    return cfg


def _rest(cfg: DictConfig, groups: Iterable[str]) -> dict[str, Any]:
    return {key: value for key, value in OmegaConf.to_container(cfg).items() if key not in groups}
