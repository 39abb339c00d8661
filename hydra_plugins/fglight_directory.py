"""Where runs and sweeps go: Hydra makes directories by itself, and asks neither what for nor who else has them."""

import sys
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf


class RunDirectory(Callback):
    """Makes the directory of a single run before Hydra does, where its settings are possible."""

    def on_run_start(self, config: DictConfig, **_: Any) -> None:
        """Put a directory that can be written to in ``hydra.run.dir``; end in one line where there can be none."""
        from fglight.config import check_config
        from fglight.config.settings import LOOKS
        from fglight.errors import ConfigError
        from fglight.processes import is_first
        from fglight.runs.folder import make_directory

        try:
            check_config(config)
            looked = [_look(config, setting) for setting in LOOKS if config[setting]]
            if looked:
                sys.exit(next((status for status in looked if status), 0))
            folder = Path(config.hydra.run.dir)
            timed = _is_timed(config.hydra.run)
            # The first process of torchrun's or SLURM's makes one, under a name of its time; the others use none.
            first = is_first() or not timed
            config.hydra.run.dir = str(make_directory("hydra.run.dir", folder, new=timed) if first else folder.parent)
        except ConfigError as error:
            sys.exit(str(error))  # Hydra turns any other exception of a callback into a warning


def _look(config: DictConfig, setting: str) -> int | str:
    """Show what one of ``LOOKS`` tells of a run; returns the exit status, or what is wrong."""
    from fglight.errors import one_line
    from fglight.training.checking import show_check, show_verification  # loads torch

    try:
        return 0 if {"check": show_check, "verify": show_verification}[setting](config) else 1
    except Exception as error:  # whatever a network of one's own may raise
        return f"{setting}=true: {one_line(error)}"


def make_sweep_directory(config: DictConfig) -> None:
    """Make the directory of a sweep that is not of the paper's cells, and put it in ``hydra.sweep.dir``.

    Raises:
        ConfigError: it cannot be written to.
    """
    from fglight.runs.folder import make_directory
    from fglight.sweeps.runner import quoted

    hydra = config.hydra
    folder = make_directory("hydra.sweep.dir", Path(hydra.sweep.dir), new=_is_timed(hydra.sweep))
    hydra.sweep.dir = str(folder)
    hydra.overrides.hydra.append(f"hydra.sweep.dir={quoted(folder)}")  # the jobs' configurations begin here


def _is_timed(node: DictConfig) -> bool:
    """Whether a node's ``dir`` is named after the time, so that no run is ever to go on there."""
    return "${now:" in str(OmegaConf.to_container(node, resolve=False)["dir"])
