"""Folders on file systems without locks, or that cannot be written to."""

import errno
import os
import sys

import pytest

from fglight import locks
from fglight.data.download import download
from fglight.errors import ConfigError, DataError
from fglight.runs.folder import State, claim, state


@pytest.fixture(params=["ENOLCK", "ENOTSUP", "ENOSYS", "EPERM"])
def reason(request, monkeypatch):
    """Why the kernel refuses a lock, which it does."""
    fcntl = pytest.importorskip("fcntl")
    number = getattr(errno, request.param)

    def refuse(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    locks._TOLD.clear()
    return os.strerror(number)


def test_runs_go_on_without_locks_and_one_line_says_so(reason, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name in ("first", "second"):
        run = tmp_path / name
        run.mkdir()
        with claim(run):
            (run / "config.yaml").touch()
        assert state(run) is State.INTERRUPTED
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"first is on a file system without locks ({reason}): going on")


def test_downloads_go_on_without_locks(reason, tmp_path, capsys):
    done = tmp_path / "data" / "files"
    download(lambda folder: (folder / "files").mkdir(), tmp_path / "data", "files", done.is_dir, "data are missing.")
    assert done.is_dir()
    assert "without locks" in capsys.readouterr().err


def test_a_folder_whose_lock_cannot_be_opened_is_named_in_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    run = tmp_path / "run"
    (run / ".lock").mkdir(parents=True)
    (run / "config.yaml").touch()
    with pytest.raises(ConfigError, match=r"^run cannot be written to \(Is a directory\): move it away"), claim(run):
        pass
    assert state(run) is State.INTERRUPTED
    (tmp_path / ".download.lock").mkdir()
    with pytest.raises(DataError, match=r"^data are missing\. The download failed: IsADirectoryError"):
        download(lambda _: None, tmp_path, "files", lambda: False, "data are missing.")
    assert capsys.readouterr().err == ""


pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="other locks")
