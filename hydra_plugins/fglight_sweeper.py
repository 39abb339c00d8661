"""Hydra's sweeper, extended by sweeps over the paper's tables, figures and searches, and by studies."""

import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.basic_launcher import BasicLauncher
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import configure_log
from hydra.errors import CompactHydraException
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from hydra_plugins.fglight_directory import make_sweep_directory


class PaperSweeper(BasicSweeper):
    """Runs what ``table``, ``figure``, ``study`` or ``search`` name; without them it is Hydra's own sweeper.

    The paper's tables are no Cartesian products: this makes one list of overrides for each cell and seed, and hands
    them to the launcher that was chosen.
    """

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Make the launcher.

        Raises:
            CompactHydraException: its plugin is not installed.
        """
        launcher = config.hydra.runtime.choices["hydra/launcher"]
        try:
            super().setup(hydra_context=hydra_context, task_function=task_function, config=config)
        except (ImportError, RuntimeError) as error:
            from fglight.errors import one_line

            needs = "hydra/launcher={} cannot be used ({}); pip install 'fglight[sweep]' installs what it needs"
            raise CompactHydraException(needs.format(launcher, one_line(error))) from None

    def validate_batch_is_legal(self, batch: Sequence[Sequence[str]]) -> None:
        """Check the configurations of an ordinary sweep before anything is started.

        Raises:
            ConfigError: a setting of one is not possible.
        """
        from fglight.sweeps.composing import checked

        checked(self._composer, batch)

    @cached_property
    def _composer(self) -> Callable[[list[str]], DictConfig]:
        from fglight.sweeps.composing import Composer

        loader = self.hydra_context.config_loader
        return Composer(lambda overrides: loader.load_sweep_config(self.config, overrides))

    def sweep(self, arguments: list[str]) -> Any:
        """Do the runs that the command line names.

        Args:
            arguments: the overrides of the command line.

        Raises:
            CompactHydraException: a setting is not possible, or runs failed.
        """
        # Hydra imports every plugin at its start, so what takes long waits until here.
        from fglight.errors import FglightError
        from fglight.studies import add_studies
        from fglight.sweeps.composing import checked
        from fglight.sweeps.failed import Noting, folders_of, options_of
        from fglight.sweeps.request import asks, parse, refuse_looks
        from fglight.sweeps.runner import Sweep
        from fglight.sweeps.studies import run_study
        from fglight.text import counted

        parser = OverridesParser.create(config_loader=self.hydra_context.config_loader)
        try:
            overrides = parser.parse_overrides([*self._parse_config(), *arguments])
            refuse_looks(overrides)
            for folder in folders_of(self.config):
                add_studies(folder)
            request = parse(overrides)
            if request is None and asks(overrides, "plan"):
                (batch,) = self.split_arguments([x for x in overrides if x.key_or_group != "plan"], None)
                configs = checked(self._composer, batch)
                from fglight.sweeps.plan import show_ordinary  # loads torch

                show_ordinary(dict(zip(map(" ".join, batch), configs)))
                return None
            if request is None:
                make_sweep_directory(self.config)
                self.launcher = noting = Noting(self.launcher, options_of(self.config))
                done = super().sweep(arguments)
                with suppress(FglightError, ModuleNotFoundError):  # nothing is finished yet, or the extra is not there
                    from fglight.report.show import show

                    show([Path(self.config.hydra.sweep.dir)])
                noting.check()
                return done
            # One line a run is enough, and the sweep prints that.
            self.config.hydra.hydra_logging = OmegaConf.create({"version": 1, "root": {"level": "WARNING"}})
            configure_log(self.config.hydra.hydra_logging)
            own = any(text.startswith("hydra.sweep.dir=") for text in self.config.hydra.overrides.hydra)
            folder = Path(self.config.hydra.sweep.dir if own else "multirun/cells").absolute()
            self.config.hydra.sweep.dir = str(folder)
            sweep = partial(
                Sweep,
                folder=folder,
                compose=self._composer,
                launch=self.launcher.launch,
                serial=isinstance(self.launcher, BasicLauncher),
                here=not elsewhere(self.config),
            )
            if request.studies and not request.search:
                failed, runs = run_study(request, folder, sweep)
            else:
                single = sweep(request)
                failed, runs = single.run(), len(single.jobs)
        except FglightError as error:
            raise CompactHydraException(str(error)) from None
        if failed:
            raise CompactHydraException(f"{failed} of {counted(runs, 'run')} failed")
        return None


def elsewhere(config: DictConfig) -> bool:
    """Whether runs may be done on other machines, which may have their data in folders of their own."""
    launcher = config.hydra.runtime.choices["hydra/launcher"]
    address = os.environ.get("RAY_ADDRESS") or OmegaConf.select(config, "hydra.launcher.ray.init.address")
    return launcher == "submitit_slurm" or (launcher == "ray" and bool(address))
