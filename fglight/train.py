"""Train one cell, or with -m a sweep: ``fglight train -m table=3``, ``fglight train -m guess=gaussian,local``."""

import os
import re
import signal
import sys
import warnings
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from hydra import version
from hydra._internal import utils
from hydra._internal.hydra import Hydra
from hydra._internal.utils import _run_hydra, get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.errors import CompactHydraException, MissingConfigException
from hydra.plugins.config_source import ConfigSource
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from fglight.config import devices
from fglight.config.settings import CONFIG_DIR, check_overrides
from fglight.errors import ConfigError, FglightError, RunBusyError

PLUGINS = {
    "hydra/launcher=joblib": ("hydra_plugins.hydra_joblib_launcher", "sweep"),
    "hydra/sweeper=optuna": ("hydra_plugins.hydra_optuna_sweeper", "optuna"),
}
"""Choices that come with packages of Hydra's, their modules, and the extra that installs them."""


def main(arguments: Sequence[str]) -> int:
    """Do what a command line says, as Hydra's decorator would, but with the command line given.

    Lightning and Ray start this process's own command line again, so ``sys.argv`` must stay as it is.

    Args:
        arguments: overrides and Hydra's options.

    Returns:
        The exit status; Hydra ends the process by itself after an error.
    """
    # Files in conf/hydra/launcher/ complete a plugin's schema of the same name, which Hydra 1.3 does and 1.4 will not.
    warnings.filterwarnings("ignore", r"\s*'hydra/launcher/\w+' is validated against ConfigStore schema")
    version.setbase("1.3")
    ConfigSource._list_add_result = _list_visible  # type: ignore[method-assign, assignment]  # in help and in guess=glob(*)
    utils.run_and_report = _told  # type: ignore[assignment]
    Hydra.get_help = _help  # type: ignore[method-assign]
    parser = get_args_parser()
    parser.prog = "fglight train"
    options = parser.parse_intermixed_args(_with_kind(arguments))  # Hydra's own wants all overrides on one side
    if options.experimental_rerun is not None:
        parser.error("--experimental-rerun is not possible: hydra.run.dir=FOLDER goes on with the run that is there")
    if options.multirun:  # Hydra would take a study, of which a sweep has runs, for a choice that each run has
        options.overrides = [re.sub(r"^study=([\w-]+)$", r"study=choice(\1)", text) for text in options.overrides]
    try:
        check_overrides(options.overrides)
        _check_installed(options.overrides)
        if options.config_dir is not None and not Path(options.config_dir).is_dir():
            raise ConfigError(f"--config-dir must be a folder, got {options.config_dir}")
    except FglightError as error:
        print(error, file=sys.stderr)
        return 1
    first = str(CONFIG_DIR)
    if options.config_dir is not None:  # Hydra looks there last: files of one's own would not count beside namesakes
        first, options.config_dir = os.path.abspath(options.config_dir), first
    try:
        _run_hydra(args=options, args_parser=parser, task_function=job, config_path=first, config_name="config")
    except ValueError as error:  # of options that do not go together: what a job raises, Hydra shows by itself
        if _full():
            raise
        parser.error(str(error))
    except KeyboardInterrupt:  # of a sweep
        return 128 + signal.SIGINT
    return 0


def _full() -> bool:
    return os.environ.get("HYDRA_FULL_ERROR") == "1"


_report = utils.run_and_report


def _told(do: Callable[[], Any]) -> Any:
    """Do something as Hydra does, and say no more of an error that explains itself."""

    def alone() -> Any:
        try:
            return do()
        except CompactHydraException as error:
            if _full():
                raise
            print(_in_words(error), file=sys.stderr)
            sys.exit(1)

    return _report(alone)


def _in_words(error: Exception) -> str:
    """What an error says; of a choice that there is not, the nearest there are."""
    if not isinstance(error, MissingConfigException) or not error.options:
        return f"{error}\n{error.__cause__}" if isinstance(error.__cause__, OmegaConfBaseException) else str(error)
    group, _, choice = str(error.missing_cfg_file).rpartition("/")
    near = get_close_matches(choice, error.options, n=2)
    instead = f": did you mean {' or '.join(near)}?" if near else ""
    return f"{group} must be one of {', '.join(error.options)}, got {choice}{instead}"


_plain_help = Hydra.get_help


def _help(self: Hydra, help_cfg: DictConfig, cfg: DictConfig, args_parser: Any, resolve: bool) -> str:
    """Hydra's help, with the comments of the files of settings."""
    text = _plain_help(self, help_cfg, cfg, args_parser, resolve)
    if resolve:
        return text
    from fglight.config.help import commented

    sources = (source.path for source in HydraConfig.get().runtime.config_sources if source.schema == "file")
    chosen = HydraConfig.get().runtime.choices
    return text.replace(OmegaConf.to_yaml(cfg), f"{commented(cfg, chosen, [*map(Path, sources)])}\n")


_list_any = ConfigSource._list_add_result


def _list_visible(self: ConfigSource, files: list[str], file_path: str, file_name: str, **wanted: Any) -> None:
    """List a choice or a group, but for hidden files and folders, such as Jupyter's copies."""
    if not file_name.startswith("."):
        _list_any(self, files=files, file_path=file_path, file_name=file_name, **wanted)


def _with_kind(arguments: Sequence[str]) -> list[str]:
    """A command line whose ``--info`` says of what, so that it does not take an override that follows for it."""
    following = [*arguments[1:], ""]
    return [
        "--info=all" if argument in ("--info", "-i") and "=" in after else argument
        for argument, after in zip(arguments, following)
    ]


def _check_installed(overrides: Sequence[str]) -> None:
    for choice in set(overrides) & PLUGINS.keys():
        module, extra = PLUGINS[choice]
        if find_spec(module) is None:
            raise ConfigError(f"{choice} is not installed: pip install 'fglight[{extra}]' installs what it needs")


def job(cfg: DictConfig) -> float | None:
    """Run one job and return its result, the test accuracy or another metric; None where another process runs it."""
    sweep = HydraConfig.get().mode == RunMode.MULTIRUN
    try:
        if sweep and devices(cfg) > 1:
            raise ConfigError(
                "trainer.devices must be 1 with -m, since each of its processes would start the sweep anew, got "
                f"{cfg.trainer.devices} (hydra/launcher=ray puts one run on each GPU)"
            )
        if sweep:
            os.environ.pop("WANDB_RUN_ID", None)  # one id cannot be that of all runs
        from fglight.training.run import train  # loads torch, which help and errors do without

        run_dir = Path(HydraConfig.get().runtime.output_dir)
        result = train(cfg, run_dir)
        if not sweep and os.environ.get("LOCAL_RANK", "0") == "0":
            print(
                "next:",
                *(f"fglight {command} {os.path.relpath(run_dir)}" for command in ("show", "report", "eval")),
                sep="\n  ",
            )
        return result[f"test_{result['metric']}"]
    except FglightError as error:
        if sweep and isinstance(error, RunBusyError):
            print(error)
            return None
        if not sweep and not _full():  # Hydra would say before it which overrides there are
            print(error, file=sys.stderr)
            sys.exit(1)
        raise CompactHydraException(str(error)) from None  # which is told without a traceback
