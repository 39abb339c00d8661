"""Evaluate the networks of runs: ``fglight eval outputs/A outputs/B trainer.limit_val_batches=10``."""

import json
import sys
from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.table import Table

from fglight.config import check_config
from fglight.config.settings import GROUPS, LOOKS, check_overrides, choices
from fglight.errors import ConfigError, FglightError, one_line
from fglight.runs.settings import within
from fglight.text import measured

if TYPE_CHECKING:
    from fglight.training.evaluation import Evaluation

CHANGEABLE = (
    "data",
    "loss.metrics",
    "channels_last",
    "trainer.accelerator",
    "trainer.limit_val_batches",
    "trainer.precision",
    "trainer.enable_progress_bar",
)
"""Settings, and groups of them, that do not change what was trained."""

_FOUND_OUT = ("name", "num_classes", "in_channels")


def main(arguments: Sequence[str]) -> int:
    """Evaluate runs and print a table; returns the exit status, 1 where a run could not be evaluated."""
    parser = _parser()
    options = parser.parse_intermixed_args(arguments)
    folders = [text for text in options.words if "=" not in text or Path(text).is_dir()]
    overrides = [text for text in options.words if text not in folders]
    if not folders:
        parser.error("a FOLDER is required")
    if options.json:
        overrides.append("trainer.enable_progress_bar=false")
    try:
        _check(overrides)
    except FglightError as error:
        return _failed(str(error))
    from fglight.training.evaluation import evaluate  # loads torch

    found: list[Evaluation] = []
    failed = 0
    for folder in folders:
        try:
            found.append(evaluate(Path(folder), lambda cfg: changed(cfg, overrides)))
        except (FglightError, HydraException) as error:
            failed = _failed(f"{folder}: {one_line(error)}")
    if options.json:
        print(json.dumps([vars(evaluation) for evaluation in found], indent=2))
    elif found:
        Console().print(_table(found))
    return failed


def _parser() -> ArgumentParser:
    parser = ArgumentParser(
        "fglight eval",
        description="Evaluate the networks of runs on their test sets, or on other data; nothing is written.",
        epilog=f"Settings that can be changed: {', '.join(CHANGEABLE)}. All others are as the run was trained.",
    )
    parser.add_argument(
        "words",
        nargs="+",
        metavar="FOLDER|SETTING=VALUE",
        help="folders of runs, with checkpoints/last.ckpt, and settings, as in data.batch_size=64",
    )
    parser.add_argument("--json", action="store_true", help="print JSON in place of a table")
    return parser


def _failed(error: str) -> int:
    print(f"error: {error}", file=sys.stderr)
    return 1


def _check(overrides: Sequence[str]) -> None:
    """Check that overrides can be read, and that each changes nothing of what was trained.

    Raises:
        ConfigError: one is not possible.
    """
    check_overrides(overrides)
    for override in OverridesParser.create().parse_overrides(list(overrides)):
        text = str(override.input_line)
        if not within(override.key_or_group, CHANGEABLE):
            raise ConfigError(
                f"{text} is not possible, for it changes what was trained: there are {', '.join(CHANGEABLE)}"
            )
        if override.is_delete() or override.is_sweep_override():
            raise ConfigError(f"{text} is not possible, a setting must have one value: {override.key_or_group}=VALUE")


def changed(cfg: DictConfig, overrides: Sequence[str]) -> DictConfig:
    """A run's configuration with overrides; a choice of data comes first, as with Hydra.

    What a data set of files says of itself is found out anew where ``data.root`` is another.

    Raises:
        ConfigError: there is no such choice, or a value is not possible.
    """
    cfg = OmegaConf.merge(dict.fromkeys(LOOKS, False), cfg)
    parsed = OverridesParser.create().parse_overrides(list(overrides))
    for override in sorted(parsed, key=lambda override: override.key_or_group not in GROUPS):
        name, value = override.key_or_group, override.value()
        if name in GROUPS:
            there = choices(name)
            if str(value) not in there:
                raise ConfigError(f"{name} must be {' or '.join(there)}, got {value}")
            value = there[str(value)]
        OmegaConf.update(cfg, name, value, merge=False, force_add=True)
        if name == "data.root":
            own = next((choice for choice in choices("data").values() if choice["_target_"] == cfg.data._target_), {})
            for fact in _FOUND_OUT:
                if "${" in str(own.get(fact)):
                    cfg.data[fact] = own[fact]
    check_config(cfg)
    return cfg


def _table(found: Sequence["Evaluation"]) -> Table:
    """A row a run, and one for each of its auxiliary networks in use."""
    names = list(dict.fromkeys(name for evaluation in found for name in evaluation.metrics))
    table = Table("run", "epochs", "data", *names)
    for evaluation in found:
        planned = "" if evaluation.finished else f" of {evaluation.max_epochs}, unfinished"
        data = f"{evaluation.data}, {evaluation.split}"
        table.add_row(evaluation.run, f"{evaluation.epochs}{planned}", data, *_cells(names, evaluation.metrics))
        for block, metrics in evaluation.auxiliaries.items():
            table.add_row(f"  block {block}'s auxiliary", "", "", *_cells(names, metrics))
    return table


def _cells(names: Sequence[str], metrics: dict[str, Any]) -> list[str]:
    return [measured(name, metrics[name]) if name in metrics else "" for name in names]
