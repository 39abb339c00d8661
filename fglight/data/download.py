"""Downloads, whole or not at all."""

import socket
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

from fglight.errors import DataError
from fglight.locks import locked

_SILENCE_SECONDS = 20


def download(
    fetch: Callable[[Path], object], root: Path, folder: str, complete: Callable[[], bool], error: str
) -> None:
    """Download a folder: all of it or nothing, one process at a time and without endless waits for a silent server.

    Args:
        fetch: downloads into the folder that it is given.
        root: the folder that the result goes to, made if need be.
        folder: what ``fetch`` makes and ``root`` gets, a relative path.
        complete: whether everything is there already, maybe thanks to another process.
        error: the text of the error if something goes wrong; the cause is added to it.

    Raises:
        DataError: something went wrong.
    """
    target = root / folder
    timeout = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_SILENCE_SECONDS)
    try:
        root.mkdir(parents=True, exist_ok=True)
        with locked(root / ".download.lock"):
            if complete():
                return
            if target.exists() and any(target.iterdir()):
                raise FileExistsError(f"{target} exists but is not complete, remove it first")
            with TemporaryDirectory(dir=root, prefix=".download-") as temporary:
                fetch(Path(temporary))
                target.parent.mkdir(parents=True, exist_ok=True)
                (Path(temporary) / folder).rename(target)
    except Exception as cause:  # urllib, tarfile, zlib and torchvision each have their own ways to fail
        reason = " ".join(f"{type(cause).__name__}: {cause}".split())
        raise DataError(f"{error} The download failed: {reason}") from cause
    finally:
        socket.setdefaulttimeout(timeout)
