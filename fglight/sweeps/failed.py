"""What a sweep says of the jobs that failed."""

import re
import shlex
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn, JobStatus
from hydra.errors import CompactHydraException
from hydra.plugins.launcher import Launcher
from omegaconf import DictConfig, OmegaConf

from fglight.config.settings import CONFIG_DIR
from fglight.errors import one_line
from fglight.runs.folder import FAILURE
from fglight.sweeps.runner import quoted
from fglight.text import counted


class Noting(Launcher):
    """A launcher that keeps what failed to itself, so that a sweep goes on and tells of everything at its end.

    Args:
        launcher: does the jobs.
        options: of the command line, which the jobs' commands need as well.

    Attributes:
        jobs: how many there were.
        failed: a line on each that failed, and the command that does it again.
    """

    def __init__(self, launcher: Launcher, options: Sequence[str] = ()) -> None:
        self.launcher = launcher
        self.options = options
        self.jobs = 0
        self.failed: list[str] = []

    def setup(self, **given: Any) -> None:
        """See Hydra; the launcher was."""

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run jobs; returns what came of those that did not fail."""
        returns = self.launcher.launch(job_overrides, initial_job_idx=initial_job_idx)
        self.jobs += len(returns)
        for overrides, returned in zip(job_overrides, returns):
            if returned.status is not JobStatus.COMPLETED:
                self.failed.append(self._told(overrides, returned))
        return [returned for returned in returns if returned.status is JobStatus.COMPLETED]

    def check(self) -> None:
        """Tell of all jobs that failed.

        Raises:
            CompactHydraException: some did.
        """
        if self.failed:
            jobs = f"{len(self.failed)} of {counted(self.jobs, 'job')} failed:"
            raise CompactHydraException("\n".join([jobs, *self.failed]))

    def _told(self, overrides: Sequence[str], returned: JobReturn) -> str:
        error = vars(returned)["_return_value"]  # reading return_value would raise it
        words = [*self.options, *overrides]
        folder = returned.hydra_cfg and OmegaConf.select(returned.hydra_cfg, "hydra.runtime.output_dir")
        if folder:
            place = _short(Path(folder))
            plain = re.fullmatch(r"[\w./+~-]+", place)
            words.append(f"hydra.run.dir={place if plain else quoted(place)}")
        why = one_line(error)
        if not isinstance(error, CompactHydraException):
            why = f"{type(error).__name__}: {why}"
            if folder and Path(folder, FAILURE).exists():
                why += f" (its traceback is in {_short(Path(folder, FAILURE))})"
            else:
                traceback.print_exception(error)
        return f"- {why}\n  fglight train {shlex.join(words)}"


def options_of(config: DictConfig) -> list[str]:
    """The options of the command line that say where configurations are."""
    name = config.hydra.job.config_name
    return [
        *(f"--config-dir={folder}" for folder in folders_of(config)),
        *([f"--config-name={name}"] if name != "config" else []),
    ]


def folders_of(config: DictConfig) -> list[Path]:
    """The folders of a user's own configurations."""
    sources = config.hydra.runtime.config_sources
    paths = [Path(source.path) for source in sources if source.provider in ("main", "command-line")]
    return [path for path in paths if path != CONFIG_DIR]


def _short(path: Path) -> str:
    """A path as a user would type it."""
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)
