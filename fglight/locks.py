"""Locks on folders that several processes may write to."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

_TOLD: set[int] = set()
"""Devices of file systems without locks of which a line was printed."""


@contextmanager
def locked(file: Path, patience: float = -1) -> Iterator[None]:
    """Hold a lock on a file, which is made where there is none; a process that dies lets go of it.

    Where the file system has no locks, as NFS without its lock daemon, nothing is held: a line says so once.

    Args:
        file: in the folder that is to be held.
        patience: seconds to wait for another process, -1 for as long as it takes.

    Raises:
        filelock.Timeout: another process holds it.
        OSError: the file cannot be opened or made.
    """
    lock = FileLock(file, fallback_to_soft=False)
    try:
        lock.acquire(timeout=patience, poll_interval=0.1)
    except Timeout:
        raise
    except OSError as error:
        if error.filename is not None:  # opening it failed, not the lock
            raise
        _tell(file.parent, error.strerror or str(error))
    try:
        yield
    finally:
        lock.release()


def _tell(folder: Path, reason: str) -> None:
    device = folder.stat().st_dev
    if device not in _TOLD:
        _TOLD.add(device)
        print(
            f"{os.path.relpath(folder)} is on a file system without locks ({reason}): going on, start no other process "
            "that writes there",
            file=sys.stderr,
            flush=True,
        )
