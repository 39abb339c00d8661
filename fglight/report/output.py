"""The folder of a report, written whole or not at all."""

import re
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from fglight.errors import ConfigError

_OURS = re.compile(r"index\.html|tables\.(md|tex|csv)|studies\.csv|figures(/[a-z-]+\d+\.(png|pdf))?")

_HIDDEN = re.compile(r"(^|/)\.")  # what the Finder, Jupyter or git keep in any folder


def check(out: Path) -> None:
    """Refuse a place that a report cannot be written to, before any work is done.

    Raises:
        ConfigError: it is no folder, holds something else than a report, or cannot be written.
    """
    with _beside(out):
        pass


def write(out: Path, files: Mapping[str, bytes]) -> None:
    """Put files into a folder in place of the report that is there; on any error the earlier one stays.

    Args:
        out: the report's folder.
        files: contents by name below ``out``.

    Raises:
        ConfigError: as ``check``, or the disk is full.
    """
    with _beside(out) as staged:
        new, old = Path(staged, "new"), Path(staged, "old")
        for name, content in files.items():
            (new / name).parent.mkdir(parents=True, exist_ok=True)
            (new / name).write_bytes(content)
        _swap(out.resolve(), new, old)


@contextmanager
def _beside(out: Path) -> Iterator[str]:
    """A temporary folder on the same file system, so that what is in it can be renamed into place."""
    if out.exists() and not out.is_dir():
        raise ConfigError(f"--out must be a folder, got '{out}'.")
    for name in (path.relative_to(out).as_posix() for path in out.rglob("*")):
        if not (_HIDDEN.search(name) or _OURS.fullmatch(name)):
            raise ConfigError(f"--out must hold nothing but a report, got '{out}', which holds '{name}'.")
    parent = out.resolve().parent
    try:
        parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{out.resolve().name}-", dir=parent) as folder:
            yield folder
    except OSError as error:
        raise ConfigError(f"Cannot write the report to '{out}': {error.strerror}.") from error


def _swap(out: Path, new: Path, old: Path) -> None:
    if out.exists():
        out.rename(old)
    try:
        new.rename(out)
    except OSError:
        if old.exists():
            old.rename(out)
        raise
    for hidden in old.glob(".*"):
        hidden.rename(out / hidden.name)
