"""A run's directory: the names of its files, who may write to it, and how far it has come."""

import itertools
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Any

import yaml
from filelock import Timeout
from omegaconf import DictConfig, OmegaConf

from fglight.errors import ConfigError, NonFiniteLossError, RunBusyError, one_line
from fglight.locks import locked

CONFIG, RESULT, FAILURE, METRICS = "config.yaml", "result.json", "failure.json", "metrics"
CHECKPOINT = "checkpoints/last.ckpt"
"""What a run's directory holds: its settings; how it ended; the folder of what it logged; where it goes on from."""


class State(StrEnum):
    """How far a run has come."""

    NEW = "new"
    RUNNING = "running"
    INTERRUPTED = "interrupted"
    FAILED = "failed"
    DIVERGED = "diverged"
    FINISHED = "finished"


def make_directory(setting: str, path: Path, *, new: bool = False) -> Path:
    """Make a directory, and check that it can be written to.

    Args:
        setting: what names it on the command line.
        path: the directory.
        new: whether it must be nobody else's: a name that is taken gets a number.

    Returns:
        The directory.

    Raises:
        ConfigError: naming the setting, the directory and why it cannot be.
    """
    made = path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for number in itertools.count(2):
            try:
                made.mkdir(exist_ok=not new)
                break
            except FileExistsError:
                if not new:
                    raise
                made = path.with_name(f"{path.name}-{number}")
        with tempfile.TemporaryFile(dir=made):
            pass
    except OSError as error:
        raise ConfigError(
            f"{setting} must be a folder that can be written to, or a place for one, got {path} ({error.strerror})"
        ) from error
    return made


@contextmanager
def claim(run_dir: Path, patience: float = 2) -> Iterator[None]:
    """Hold a run's directory for this process, where its file system has locks; see ``locked``.

    Args:
        run_dir: the directory, which exists.
        patience: seconds to wait for another process, enough for one that only looks whether anybody holds it.

    Raises:
        RunBusyError: another process holds it.
        ConfigError: it cannot be written to.
    """
    with ExitStack() as held:
        try:
            held.enter_context(locked(run_dir / ".lock", patience))
        except Timeout:
            raise RunBusyError(f"{os.path.relpath(run_dir)} is being written by another process: skipped") from None
        except OSError as error:
            raise ConfigError(
                f"{os.path.relpath(run_dir)} cannot be written to ({error.strerror}): move it away, or choose another "
                "folder"
            ) from error
        yield


def state(run_dir: Path) -> State:
    """How far the run in a directory has come; the directory need not exist."""
    if read_result(run_dir) is not None:
        return State.FINISHED
    if (run_dir / ".lock").exists():
        try:
            with claim(run_dir, patience=0):
                pass
        except RunBusyError:
            return State.RUNNING
        except ConfigError:  # which the run will tell, where it is to go on
            pass
    if (run_dir / FAILURE).exists():
        return State.DIVERGED if failure(run_dir).startswith(NonFiniteLossError.__name__) else State.FAILED
    return State.INTERRUPTED if (run_dir / CONFIG).exists() else State.NEW


def read_result(run_dir: Path) -> dict[str, Any] | None:
    """What ``result.json`` holds; None where there is none, or none that can be read."""
    try:
        result = json.loads((run_dir / RESULT).read_text(encoding="utf-8"))
        return result if f"test_{result['metric']}" in result else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def failure(run_dir: Path) -> str:
    """The error that ``failure.json`` tells; empty where there is none that can be read."""
    try:
        return str(json.loads((run_dir / FAILURE).read_text(encoding="utf-8"))["error"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def modified(path: Path) -> int | None:
    """When a file was written, in nanoseconds; None where there is none."""
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return None


def read_config(run_dir: Path) -> DictConfig:
    """A run's settings, ``config.yaml``.

    Raises:
        ConfigError: it cannot be read.
    """
    path = run_dir / CONFIG
    try:
        settings = OmegaConf.load(path)
        if not isinstance(settings, DictConfig):
            raise ValueError("no settings are in it")
    except (OSError, ValueError, AttributeError, yaml.YAMLError) as error:
        raise ConfigError(f"{os.path.relpath(path)} cannot be read ({one_line(error)})") from error
    return settings


def write_config(settings: Mapping[str, Any], run_dir: Path) -> None:
    """Write ``config.yaml``, whole or not at all."""
    write_whole(run_dir / CONFIG, OmegaConf.to_yaml(OmegaConf.create(dict(settings))))


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON file, whole or not at all."""
    write_whole(path, json.dumps(content, indent=2))


def write_whole(path: Path, text: str) -> None:
    """Write a file, whole or not at all."""
    unfinished = path.with_name(f"{path.name}.tmp")
    with unfinished.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    unfinished.replace(path)
