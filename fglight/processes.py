"""A run's processes: which of them is the first, and how they end when SIGTERM tells them to."""

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


def is_first() -> bool:
    """Whether this is the first process of its run, by what Lightning, torchrun and SLURM leave in the environment."""
    return all(os.environ.get(name, "0") == "0" for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID"))


TERMINATED = 128 + signal.SIGTERM
"""The exit status that shells expect after SIGTERM."""


class Terminated(SystemExit):
    """SIGTERM came: the process ends with status ``TERMINATED``."""

    def __init__(self) -> None:
        super().__init__(TERMINATED)


def begin() -> None:
    """Let SIGTERM end this process at once while it only imports, when there is nothing to save."""
    # The processes that Lightning starts, other than torchrun's without a RANK, are ended by the first one.
    by_lightning = os.environ.get("LOCAL_RANK", "0") != "0" and "RANK" not in os.environ
    signal.signal(signal.SIGTERM, signal.SIG_IGN if by_lightning else _end)


@contextmanager
def terminable(left: Callable[[], str] = str) -> Iterator[None]:
    """Let SIGTERM raise ``Terminated``, and tell of it in one line.

    A handler that is there already stays: that of an outer ``terminable``, which does the same, or a launcher's, which
    may know better, as submitit's does, by which SLURM's jobs go on until they are queued again.

    Args:
        left: makes the end of the line, such as what a run leaves.
    """
    handler = signal.getsignal(signal.SIGTERM)
    own = handler in (signal.SIG_DFL, _end) and threading.current_thread() is threading.main_thread()
    if own:
        handler = _Raiser()
        signal.signal(signal.SIGTERM, handler)
    try:
        yield
    except BaseException as error:
        if not isinstance(handler, _Raiser) or not handler.received:
            raise
        if not handler.told:
            handler.told = True
            _tell(left())
        if isinstance(error, Terminated):
            raise
        raise Terminated from error  # something else came up on the way, such as a worker that ended, too
    finally:
        if own:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)


class _Raiser:
    """Raises ``Terminated`` once: ``timeout`` and others send the signal twice, which would disturb the ending."""

    received = False
    told = False

    def __call__(self, *_: Any) -> None:
        if not self.received:
            self.received = True
            raise Terminated


def _end(*_: Any) -> None:
    _tell(" before anything was started")
    os._exit(TERMINATED)


def _tell(rest: str) -> None:
    if is_first():
        print(f"Terminated (SIGTERM){rest}", file=sys.stderr, flush=True)
