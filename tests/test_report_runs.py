"""Reading run directories, and the synthetic ones that the other report tests are made of."""

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from fglight.cells import Cell
from fglight.errors import ConfigError
from fglight.paper import cell_of, published, unprinted
from fglight.report.metrics import along_training, by_epoch, read_metrics
from fglight.report.runs import collect
from fglight.report.scores import Scores, score

ROWS = {row.cell: row for row in published() + unprinted()}


def cell(words: str) -> Cell:
    """``cifar10 8 1 global local cnn weight`` as a cell; ``-`` stands for an empty part."""
    parts = [part.replace("-", "") for part in words.split()]
    return cell_of(dict(zip(("data", "blocks", "width", "target", "guess", "aux", "perturb"), parts)))


def recipe(like: Cell, **changes: float) -> dict[str, float]:
    """The paper's recipe with changes; the schedule shrinks with the epochs."""
    row = ROWS[like]
    names = ("lr", "lr_step", "lr_gamma", "epochs")
    paper = {name: getattr(row, name) for name in names}
    if "epochs" in changes:
        paper["lr_step"] = max(1, round(row.lr_step * changes["epochs"] / row.epochs))
    return {**paper, "batch_size": 128, "momentum": 0.9, "weight_decay": 5e-4, **changes}


def result(trained: Cell, accuracy: float, seed: int = 0, like: Cell | None = None, options=None, **changes) -> dict:
    """A ``result.json`` at the paper's recipe for ``like``, with changes."""
    how = recipe(like or trained, **changes)
    return {
        "cell": asdict(trained),
        "seed": seed,
        "recipe": how,
        "epoch": int(how["epochs"]) - 1,
        "test_accuracy": accuracy,
        "train_accuracy": min(1.0, accuracy + 0.01),
        "test_loss": 0.5,
        "train_loss": 0.4,
        "time_s": 12.5,
        "options": options or {},
        "versions": {"fglight": "0.1.0"},
    }


def write_run(folder: Path, words: dict | None = None, name: str = "result.json") -> Path:
    """A run directory with a configuration and, unless ``words`` is None, its end."""
    (folder / "metrics").mkdir(parents=True)
    (folder / "config.yaml").write_text("seed: 0\n")
    if words is not None:
        (folder / name).write_text(json.dumps(words))
    return folder


def curves(blocks: int, epochs: int, seed: int = 0, steps: int = 20, local: bool = True, shift=0.0) -> pd.DataFrame:
    """Metrics as CSVLogger writes them: a cosine every fifth step, the rest in a line after each epoch."""
    rng = np.random.default_rng(seed)
    lines = []
    for epoch in range(epochs):
        decay = np.exp(-3 * (epoch + 1) / epochs)
        for step in range(epoch * steps, (epoch + 1) * steps):
            if step % 5 == 0:
                cosines = {
                    f"cosine/block{j}": 0.02 + 0.02 * j * decay + rng.normal(0, 0.003) for j in range(blocks - 1)
                }
                lines.append({"epoch": epoch, "step": step, **(cosines if local else {})})
        ends = {"train/loss": 2.3 * decay + shift, "train/accuracy": 1 - decay, "test/loss": 2 * decay + 0.4 + shift}
        ends["test/accuracy"] = 0.9 * (1 - decay)
        for j in range(blocks - 1) if local else ():
            level = shift + 1.5 * decay + 0.8 / (j + 1) + rng.normal(0, 0.02)
            ends |= {f"train/local_loss/block{j}": level, f"test/local_loss/block{j}": level + 0.2}
        lines.append({"epoch": epoch, "step": (epoch + 1) * steps - 1, **ends})
    return pd.DataFrame(lines)


def write_metrics(folder: Path, metrics: pd.DataFrame, version: int = 0) -> Path:
    path = folder / f"metrics/version_{version}/metrics.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    metrics.to_csv(path, index=False)
    return path


def scores_of(folder: Path, *results: dict) -> Scores:
    """The scores of runs with these results."""
    for number, words in enumerate(results):
        write_run(folder / f"run{number}", words)
    return score(collect([folder]).finished)


LOCAL = cell("cifar10 8 1 global local cnn weight")


def test_every_kind_of_run_is_found_at_any_depth(tmp_path):
    write_run(tmp_path / "a", result(LOCAL, 0.9, seed=3))
    write_run(tmp_path / "deep/er/b")
    write_run(tmp_path / "c", {"error": "CUDA out of memory", "cell": asdict(LOCAL), "seed": 1}, "failure.json")
    write_run(tmp_path / "d", {"error": "cut short", "seed": 1}, "failure.json")
    (tmp_path / "no_run").mkdir()
    runs = collect([tmp_path, tmp_path / "deep"])  # overlapping roots count a run once
    assert [(run.path.name, run.cell, run.seed, run.test_accuracy) for run in runs.finished] == [("a", LOCAL, 3, 0.9)]
    assert [run.path.name for run in runs.unfinished] == ["b"]
    assert [(run.error, run.what) for run in runs.failed] == [
        ("CUDA out of memory", "cifar10, 8 blocks, local guess, cnn, weight, global target, seed 1"),
        ("cut short", ""),
    ]
    assert runs.problems == []


def test_an_unfinished_run_is_named_by_its_configuration(tmp_path):
    write_run(tmp_path / "a")
    (tmp_path / "a/config.yaml").write_text(
        "seed: 2\ndata: {name: digits}\nmodel: {blocks: 16, width: 0.5}\ntarget: {name: global}\n"
        "guess: {name: ntk}\naux: {name: mlp}\nperturb: {name: activity}\n"
    )
    (run,) = collect([tmp_path]).unfinished
    assert run.what == "digits, 16 blocks, ntk guess, mlp, activity, global target, width 0.5, seed 2"


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
