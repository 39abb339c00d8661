"""Where a single run goes: Hydra makes the directory by itself, and asks neither what for nor who else has it."""

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
        from fglight.errors import ConfigError
        from fglight.processes import is_first
        from fglight.runs.folder import make_directory

        try:
            check_config(config)
            if config.check:
                sys.exit(_check(config))
            folder = Path(config.hydra.run.dir)
            timed = is_timed(config.hydra.run)
            # The first process of torchrun's or SLURM's makes one, under a name of its time; the others use none.
            first = is_first() or not timed
            config.hydra.run.dir = str(make_directory("hydra.run.dir", folder, new=timed) if first else folder.parent)
        except ConfigError as error:
            sys.exit(str(error))  # Hydra turns any other exception of a callback into a warning


def _check(config: DictConfig) -> int | str:
    """Show what becomes of each layer; returns the exit status, or what is wrong."""
    from fglight.errors import one_line
    from fglight.training.checking import show_check  # loads torch

    try:
        return 0 if show_check(config) else 1
    except Exception as error:  # whatever a network of one's own may raise
        return f"check=true: {one_line(error)}"


def is_timed(node: DictConfig) -> bool:
    """Whether a node's ``dir`` is named after the time, so that no run is ever to go on there."""
    return "${now:" in str(OmegaConf.to_container(node, resolve=False)["dir"])
