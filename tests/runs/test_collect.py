"""Reading run directories, and the synthetic ones that the other report tests are made of."""

import errno
import json
import os
from dataclasses import asdict

import numpy as np
import pandas as pd
import pytest
from written_runs import LOCAL, curves, result, write_metrics, write_run

from fglight.config import compose
from fglight.errors import ConfigError
from fglight.runs.collect import Collection, collect
from fglight.runs.folder import write_config
from fglight.runs.logged import along_training, by_epoch, read_metrics
from fglight.runs.settings import run_settings


def test_every_kind_of_run_is_found_at_any_depth(tmp_path):
    write_run(tmp_path / "a", result(LOCAL, 0.9, seed=3))
    write_run(tmp_path / "deep/er/b")
    write_run(tmp_path / "c", {"error": "CUDA out of memory", "cell": asdict(LOCAL), "seed": 1}, "failure.json")
    write_run(tmp_path / "d", {"error": "cut short", "seed": 1}, "failure.json")
    (tmp_path / "no_run").mkdir()
    runs = collect([tmp_path, tmp_path / "deep"])  # overlapping roots count a run once
    assert [(run.path.name, run.cell, run.seed, run.score) for run in runs.finished] == [("a", LOCAL, 3, 0.9)]
    assert [run.path.name for run in runs.unfinished] == ["b"]
    assert [(run.error, run.what) for run in runs.failed] == [
        ("CUDA out of memory", "cifar10, 8 blocks, local guess, cnn, weight, global target, seed 1"),
        ("cut short", ""),
    ]
    assert runs.problems == []


def test_a_configuration_or_metrics_alone_are_no_run(tmp_path):
    (tmp_path / "planned").mkdir()
    (tmp_path / "planned" / "config.yaml").touch()
    (tmp_path / "measured" / "metrics").mkdir(parents=True)
    assert collect([tmp_path]) == Collection((tmp_path,))


def test_copies_in_hidden_folders_are_no_runs(tmp_path):
    root = tmp_path / ".mine"
    for folder in ("run", ".ipynb_checkpoints/run", "a/.snapshot/run"):
        (root / folder).mkdir(parents=True)
        (root / folder / "failure.json").write_text('{"error": "ValueError: no"}')
    assert [failure.path for failure in collect([root]).failed] == [root / "run"]


def test_an_unfinished_run_is_named_by_its_configuration(tmp_path):
    cfg = compose(["seed=2", "model=resnet18_16", "model.width=0.5", "guess=ntk", "aux=mlp", "perturb=activity"])
    write_config(run_settings(cfg), write_run(tmp_path / "a"))
    (run,) = collect([tmp_path]).unfinished
    assert run.what == "digits, 16 blocks, ntk guess, mlp, activity, global target, width 0.5, seed 2"


def test_an_unfinished_run_is_of_the_first_metric_of_its_loss(tmp_path):
    cfg = compose(["data=cifar10", "seed=3"])
    cfg.loss.metrics = ["r2", "error"]
    write_config(run_settings(cfg), write_run(tmp_path / "a"))
    (run,) = collect([tmp_path]).unfinished
    assert (run.metric, run.what) == ("r2", "cifar10, 8 blocks, local guess, cnn, weight, global target, seed 3")


def test_a_folder_that_cannot_be_listed_is_a_problem_told_in_short(tmp_path, monkeypatch):
    write_run(tmp_path / "a", result(LOCAL, 0.9))
    (tmp_path / "closed").mkdir()
    scandir = os.scandir

    def refuse(path):
        if str(path).endswith("closed"):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    runs = collect([tmp_path])
    assert [(problem.path.name, problem.reason) for problem in runs.problems] == [("closed", "Permission denied")]
    assert len(runs.finished) == 1


def test_the_time_of_a_step_is_known_where_there_were_any(tmp_path):
    for steps in (0, 50):
        write_run(tmp_path / str(steps), result(LOCAL, 0.9) | {"time_s": 12.5, "steps": steps})
    none, some = collect([tmp_path]).finished
    assert np.isnan(none.seconds)
    assert some.seconds == 0.25


def test_a_result_after_a_failure_counts_as_finished(tmp_path):
    folder = write_run(tmp_path / "a", {"error": "killed"}, "failure.json")
    (folder / "result.json").write_text(json.dumps(result(LOCAL, 0.9)))
    runs = collect([tmp_path])
    assert (len(runs.finished), len(runs.failed)) == (1, 0)


def test_a_missing_root_is_one_clear_error(tmp_path):
    with pytest.raises(ConfigError, match=r"No folder of runs at .*nowhere"):
        collect([tmp_path / "nowhere"])


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (json.dumps(result(LOCAL, 0.9))[:-40], "not valid JSON"),
        ("", "not valid JSON"),
        ("[1, 2]", "not a JSON object"),
        (json.dumps({**result(LOCAL, 0.9), "seed": None}), "wrong type"),
        (json.dumps({**result(LOCAL, 0.9), "cell": "cnn"}), "wrong type"),
        (json.dumps({k: v for k, v in result(LOCAL, 0.9).items() if k != "test_accuracy"}), "no entry 'test_accuracy'"),
        (json.dumps({k: v for k, v in result(LOCAL, 0.9).items() if k != "differences"}), "no entry 'differences'"),
        (json.dumps(result(LOCAL, float("nan"))), "no fraction"),
        (json.dumps(result(LOCAL, 91.0)), "no fraction"),
        (json.dumps(result(LOCAL, 0.9, lr=float("inf"))), "not finite"),
    ],
)
def test_a_damaged_result_is_named_and_skipped(tmp_path, content, reason):
    write_run(tmp_path / "good", result(LOCAL, 0.9))
    damaged = write_run(tmp_path / "damaged") / "result.json"
    damaged.write_text(content)
    runs = collect([tmp_path])
    assert [run.path.name for run in runs.finished] == ["good"]
    assert runs.unfinished == []
    (problem,) = runs.problems
    assert problem.path == damaged
    assert reason in problem.reason


def test_other_damaged_files_are_named_and_skipped(tmp_path):
    (write_run(tmp_path / "a") / "config.yaml").write_text("seed: [1,\n")
    (write_run(tmp_path / "b") / "result.json").write_bytes(b"\xff\xfe{}")
    (write_run(tmp_path / "c") / "failure.json").write_text('{"error": ')
    runs = collect([tmp_path])
    assert [problem.path.name for problem in runs.problems] == ["config.yaml", "result.json", "failure.json"]
    assert not runs.finished + runs.unfinished + runs.failed


def test_where_versions_overlap_the_later_one_holds(tmp_path):
    folder = write_run(tmp_path / "a")
    whole = curves(8, epochs=4)
    first = whole[whole["step"] < 55].assign(**{"train/loss": whole["train/loss"] + 100})
    write_metrics(folder, first, 2)
    write_metrics(folder, whole[whole["step"] >= 40], 10)  # numbered as a resumed run does, not sorted as text
    problems = []
    metrics = read_metrics(folder, problems)
    assert problems == []
    assert metrics["step"].tolist() == whole["step"].tolist()
    losses = by_epoch(metrics, "train/loss")
    assert losses.index.tolist() == [1, 2, 3, 4]
    expected = by_epoch(whole, "train/loss") + np.array([100, 100, 0, 0])
    np.testing.assert_allclose(losses, expected)


def test_a_value_logged_along_training_is_averaged_over_equal_parts():
    metrics = pd.DataFrame({"epoch": [0, 0, 1, 1], "step": [0, 5, 10, 19], "cosine/block0": [0.1, 0.3, 0.5, None]})
    means = along_training(metrics, "cosine/block0", bins=2)
    assert means.to_dict() == pytest.approx({0.5: 0.2, 1.5: 0.5})
    assert along_training(metrics, "cosine/block1").empty


@pytest.mark.parametrize(
    ("content", "steps", "reason"),
    [
        ("epoch,step,train/loss\n0,9,1.5\n1,19,0.", [9], "last line is cut off"),
        ("epoch,step,train/loss\n0,9,1.5\n1,19,oops\n", [9, 19], "no numbers in train/loss"),
        ("epoch,step\n0,9\n0,9,1,2,3\n", [], "not a readable table"),
        ("epoch,train/loss\n0,1.5\n", [], "no column step"),
        ("", [], None),
    ],
)
def test_damaged_metrics_are_named_and_the_rest_is_used(tmp_path, content, steps, reason):
    folder = write_run(tmp_path / "a")
    path = write_metrics(folder, pd.DataFrame())
    path.write_text(content)
    problems = []
    assert read_metrics(folder, problems)["step"].tolist() == steps
    assert [problem.path for problem in problems] == ([path] if reason else [])
    assert all(reason in problem.reason for problem in problems)


def test_a_run_without_metrics_reads_as_empty(tmp_path):
    metrics = read_metrics(write_run(tmp_path / "a"), [])
    assert metrics.empty
    assert by_epoch(metrics, "train/loss").empty
