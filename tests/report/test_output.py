"""The folder of a report: written whole or not at all, in place of an earlier one."""

import pytest

from fglight.errors import ConfigError
from fglight.report import output


def contents(out):
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in out.rglob("*") if path.is_file()}


def test_a_new_report_replaces_the_whole_earlier_one(tmp_path):
    out = tmp_path / "report"
    output.write(out, {"index.html": b"old", "figures/figure2.png": b"old"})
    output.write(out, {"index.html": b"new"})
    assert contents(tmp_path) == {"report/index.html": b"new"}


def test_hidden_names_in_its_folder_count_as_nothing_and_stay(tmp_path):
    out = tmp_path / "report"
    output.write(out, {"index.html": b"old", "figures/figure2.png": b"old"})
    for name in (".DS_Store", "figures/.DS_Store", ".ipynb_checkpoints/index-checkpoint.html"):
        (out / name).parent.mkdir(exist_ok=True)
        (out / name).write_bytes(b"")
    output.check(out)
    output.write(out, {"index.html": b"new"})
    assert set(contents(out)) == {"index.html", ".DS_Store", ".ipynb_checkpoints/index-checkpoint.html"}


def test_an_error_half_way_leaves_the_earlier_report(tmp_path, monkeypatch):
    out = tmp_path / "report"
    output.write(out, {"index.html": b"old"})

    def full_disk(path, target):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("pathlib.Path.write_bytes", full_disk)
        with pytest.raises(ConfigError, match="No space left"):
            output.write(out, {"index.html": b"new"})
    rename = type(out).rename

    def fails_for_the_new_one(path, target):
        return full_disk(path, target) if path.name == "new" else rename(path, target)

    with monkeypatch.context() as patch:
        patch.setattr("pathlib.Path.rename", fails_for_the_new_one)
        with pytest.raises(ConfigError, match="No space left"):
            output.write(out, {"index.html": b"new"})
    assert contents(tmp_path) == {"report/index.html": b"old"}
