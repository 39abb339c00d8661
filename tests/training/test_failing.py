"""What two processes leave of which one fails, and the other of its closed connection."""

import json
from types import SimpleNamespace

import pytest

from fglight.errors import DataError, NonFiniteLossError, ProcessError
from fglight.training.failing import FirstFailure

CLOSED = RuntimeError("Connection closed by peer")


@pytest.fixture(params=["first", "after an earlier failure"])
def processes(tmp_path, request):
    """Two processes that know the same folder, and what an exception does in each: ``fail(process, error)``."""
    folder = tmp_path / "run"
    folder.mkdir()
    if request.param != "first":
        (folder / "failure.json").write_text(json.dumps({"error": "OSError: of yesterday"}))
    trainer = SimpleNamespace(world_size=2, strategy=SimpleNamespace(broadcast=lambda _: folder))
    pair = [FirstFailure(path, {"seed": 3}) for path in (folder, tmp_path / "elsewhere")]
    for process in pair:
        process.setup(trainer, None, "fit")

    def fail(process, error):
        pair[process].on_exception(trainer, None, error)
        pair[process].check(error)

    def told():
        assert [path.name for path in folder.iterdir()] == ["failure.json"]
        return json.loads((folder / "failure.json").read_text())

    return SimpleNamespace(fail=fail, told=told, pair=pair)


@pytest.mark.parametrize("damaged", [0, 1])
@pytest.mark.parametrize("error", [DataError("cat.png is damaged"), ValueError("cat.png\nis damaged")])
def test_the_error_of_the_process_that_failed_first_is_told_by_all(processes, damaged, error):
    processes.fail(damaged, error)
    with pytest.raises(ProcessError, match=rf"^another process of the run failed: {type(error).__name__}: cat\.png"):
        processes.fail(1 - damaged, CLOSED)
    told = processes.told()
    assert told["error"] == f"{type(error).__name__}: {error}"
    assert told["seed"] == 3
    assert ("traceback" in told) == isinstance(error, ValueError)


def test_an_error_that_all_have_is_each_one_s_own(processes):
    for process in (1, 0):
        processes.fail(process, NonFiniteLossError("no longer finite"))
    assert processes.told()["error"] == "NonFiniteLossError: no longer finite"


def test_a_signal_is_no_failure(tmp_path, processes):
    processes.fail(0, KeyboardInterrupt())
    processes.fail(1, KeyboardInterrupt())
    assert not (tmp_path / "run" / "failure.json").exists() or "yesterday" in processes.told()["error"]
