"""Sweepers that choose settings by what runs return, such as Optuna's: what is checked before their first run."""

import sys
from collections.abc import Iterator, Sequence
from typing import Any

from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override
from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from hydra_plugins.fglight_directory import make_sweep_directory


class Choosing(Callback):
    """Makes other sweepers than ours look for the highest accuracy on images held out of training."""

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        """Check the settings of runs and make the sweep's directory; end in one line where something is not possible.

        A run's settings are checked with each choice and at both ends of each interval, others at their first value.
        """
        from fglight.config.rules import Optuna
        from fglight.config.values import check
        from fglight.errors import ConfigError, FglightError
        from fglight.sweeps.composing import Composer, checked
        from fglight.sweeps.request import refuse_looks

        sweeper = config.hydra.runtime.choices["hydra/sweeper"]
        if sweeper in ("basic", "paper"):  # which do all runs that they are asked for
            return
        given = [f"{name}={value}" for name, value in (config.hydra.sweeper.get("params") or {}).items()]
        overrides = OverridesParser.create().parse_overrides([*given, *config.hydra.overrides.task])
        loader = GlobalHydra.instance().config_loader()
        composer = Composer(lambda overrides: loader.load_sweep_config(config, overrides))
        try:
            refuse_looks(overrides)
            if sweeper == "optuna":
                _complete(config.hydra.sweeper, config.seed)
                check("hydra.sweeper", Optuna, dict(config.hydra.sweeper))
            for cfg in checked(composer, _examples(overrides)):
                if cfg.data.get("holdout") == 0:
                    raise ConfigError(
                        f"data.holdout must be a part of the images of training, as in data.holdout=0.1, with "
                        f"hydra/sweeper={sweeper}, where test images would choose settings, got {cfg.data.holdout}"
                    )
            make_sweep_directory(config)
        except FglightError as error:
            sys.exit(str(error))


def _complete(optuna: DictConfig, seed: int) -> None:
    """Give Optuna's sweeper what it lacks: which way is better, and a seed, so that the same command does the same."""
    if not isinstance(optuna.direction, str):  # its default is an enumeration's minimize
        optuna.direction = "maximize"
    if "seed" in optuna.sampler and optuna.sampler.seed is None:
        optuna.sampler.seed = seed


def _examples(overrides: Sequence[Override]) -> Iterator[list[str]]:
    values = [_values(override) for override in overrides]
    first = [texts[0] for texts in values]
    yield first
    for place, texts in enumerate(values):
        yield from ([*first[:place], text, *first[place + 1 :]] for text in texts[1:])


def _values(override: Override) -> list[str]:
    """An override with each of its values, or at both ends of its interval."""
    value = override.value()
    if isinstance(value, IntervalSweep):
        return [f"{override.get_key_element()}={end}" for end in (value.start, value.end)]
    if override.is_sweep_override():
        return [f"{override.get_key_element()}={text}" for text in override.sweep_string_iterator()]
    return [str(override.input_line)]
