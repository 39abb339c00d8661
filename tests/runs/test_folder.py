"""A run's directory: making one, holding it, and how far its run has come."""

import json
import os

import pytest
from filelock import FileLock

from fglight.errors import ConfigError, RunBusyError
from fglight.runs.folder import State, claim, make_directory, modified, read_result, state, write_json


def test_a_new_directory_is_nobody_else_s(tmp_path):
    path = tmp_path / "runs" / "demo"
    made = [make_directory("folder", path, new=True).name for _ in range(3)]
    assert made == ["demo", "demo-2", "demo-3"]
    assert make_directory("folder", path) == path
    assert sorted(os.listdir(path.parent)) == made
    assert not any(os.listdir(path.parent / name) for name in made)


@pytest.mark.parametrize("new", [False, True])
def test_a_file_in_the_place_of_a_directory_is_told(new, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"^out must be a folder .*, got .*file/run \(\w.*\)$"):
        make_directory("out", tmp_path / "file" / "run", new=new)
    if not new:
        with pytest.raises(ConfigError, match=r"^out must be a folder .*, got .*/file \(File exists\)$"):
            make_directory("out", tmp_path / "file")


def test_a_directory_that_is_held_is_running_and_nobody_else_s(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = tmp_path / "run"
    run.mkdir()
    with claim(run):
        assert (run / ".lock").is_file()
        with pytest.raises(RunBusyError, match=r"^run is being written by another process: skipped$"), claim(run, 0):
            pass
        assert state(run) is State.RUNNING
    with FileLock(run / ".lock"), pytest.raises(RunBusyError), claim(run, 0):
        pass
    assert state(run) is State.NEW
    with claim(run, 0):
        pass


def test_states_follow_from_the_files_that_are_there(tmp_path):
    run = tmp_path / "run"
    assert state(run) is State.NEW
    run.mkdir()
    assert state(run) is State.NEW
    (run / "config.yaml").touch()
    assert state(run) is State.INTERRUPTED
    for told, expected in (
        ({"error": "NonFiniteLossError: the training loss"}, State.DIVERGED),
        ({"error": "ValueError: after a NonFiniteLossError"}, State.FAILED),
        ({"seed": 1}, State.FAILED),
    ):
        write_json(run / "failure.json", told)
        assert state(run) is expected
    (run / "result.json").write_text('{"test_accuracy": 0.5')
    assert state(run) is State.FAILED
    write_json(run / "result.json", {"metric": "accuracy", "test_accuracy": 0.5})
    assert state(run) is State.FINISHED


@pytest.mark.parametrize("content", ["", "[1]", "{}", '{"test_r2": 0.5}', '{"metric": "r2", "test_accuracy": 0.5}'])
def test_a_result_without_its_metric_is_none(content, tmp_path):
    (tmp_path / "result.json").write_text(content)
    assert read_result(tmp_path) is None
    whole = {"metric": "r2", "test_r2": 0.5}
    write_json(tmp_path / "result.json", whole)
    assert read_result(tmp_path) == whole


def test_a_file_is_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "result.json"
    assert modified(path) is None
    write_json(path, {"seed": 1})
    before = modified(path)
    assert before == path.stat().st_mtime_ns
    with pytest.raises(TypeError, match="not JSON serializable"):
        write_json(path, {"seed": object()})
    assert (json.loads(path.read_text()), modified(path)) == ({"seed": 1}, before)
    assert os.listdir(tmp_path) == ["result.json"]
