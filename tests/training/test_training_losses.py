"""A run whose loss is no cross-entropy and whose result is no accuracy, from the command line to the report."""

import csv
import json
import sys
from pathlib import Path

import pytest
import torch
from forked import train_py
from sklearn.metrics import mean_absolute_error, r2_score

from fglight import load_config
from fglight.data.vectors import Diabetes
from fglight.report.contents import build
from fglight.report.render import render
from fglight.runs.folder import State, state
from fglight.runs.settings import differences
from fglight.training.build import build_metrics
from fglight.training.metrics import BlockMetrics

MLP = """
from torch import nn
from fglight.models import Block, BlockNetwork


class Linear(nn.Linear):
    def __init__(self, channels, num_classes, **_):
        super().__init__(channels, num_classes)


def mlp(auxiliary, num_classes, in_channels):
    bodies = [nn.Sequential(nn.Linear(a, 8), nn.Tanh()) for a in (in_channels, 8, 8)]
    return BlockNetwork(map(Block, bodies, [auxiliary(8), auxiliary(8), nn.Linear(8, num_classes)]))
"""
FILES = {
    "model/vectors.yaml": "_target_: vectors.mlp\nname: vectors\n",
    "aux/plain.yaml": "_target_: vectors.Linear\nname: plain\ntrained: true\n",
}
CHOICES = ("--config-dir", "my_conf", "model=vectors", "aux=plain", "data=diabetes", "optim.lr=0.02")
QUICK = ("trainer.max_epochs=3", "trainer.accelerator=cpu", "logger.mode=disabled", "trainer.enable_progress_bar=false")


def run(folder, *arguments):
    folder.mkdir(exist_ok=True)
    (folder / "vectors.py").write_text(MLP)
    for name, file in FILES.items():
        path = folder / "my_conf" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(file)
    return train_py(folder, *CHOICES, *QUICK, "hydra.run.dir=run", *arguments)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("regression") / "here"
    done = run(folder, "loss=mse")
    assert done.returncode == 0, done.stderr
    return folder, done.stdout


def network(folder):
    """The trained network's outputs of the test patients, and those of each auxiliary network."""
    weights = torch.load(folder / "run/checkpoints/last.ckpt", weights_only=True)["state_dict"]
    hidden, outputs = Diabetes().load(Path())[1].inputs, []
    for j in range(3):
        body, aux = (
            [weights[f"model.blocks.{j}.{part}.{name}"] for name in ("weight", "bias")] for part in ("body.0", "aux")
        )
        hidden = torch.tanh(torch.nn.functional.linear(hidden, *body))
        outputs.append(torch.nn.functional.linear(hidden, *aux))
    return outputs


def test_a_run_s_result_is_its_first_metric(finished):
    folder, printed = finished
    *local, output = network(folder)
    labels = Diabetes().load(Path())[1].labels
    result = json.loads((folder / "run/result.json").read_text())
    assert result["metric"] == "r2"
    assert result["test_r2"] == pytest.approx(r2_score(labels, output), rel=1e-4)
    assert result["test_mae"] == pytest.approx(mean_absolute_error(labels, output), rel=1e-4)
    assert result["test_loss"] == pytest.approx(float((labels - output).square().mean()), rel=1e-4)
    assert not [name for name in result if "accuracy" in name]
    assert f"{result['test_r2']:.4g}" in printed
    assert "test r2" in printed
    (metrics,) = folder.glob("run/metrics/version_0/metrics.csv")
    rows = list(csv.DictReader(metrics.read_text().splitlines()))
    logged = {name: value for row in rows for name, value in row.items() if value}  # the last there is
    for j, output in enumerate(local):
        assert float(logged[f"test/local_r2/block{j}"]) == pytest.approx(r2_score(labels, output), rel=1e-3)
    assert {"cosine/block0", "train/local_loss/block0", "train/mae"} <= set(logged)


def test_the_report_names_the_metric_and_compares_with_nothing(finished):
    folder, _ = finished
    result = json.loads((folder / "run/result.json").read_text())
    report = build([folder], [3], [2])
    assert [run.metric for run in report.runs.finished] == ["r2"]
    assert not any(report.results.by_scale.values())
    (line,) = report.outside
    assert line[-1] == f"r2 {result['test_r2']:.4g}"
    assert "loss.name mse" in line[1]
    assert line[-1] in render(report)["index.html"].decode()


def test_a_finished_run_is_not_done_again_and_an_unfinished_one_is_told(finished, tmp_path):
    folder, _ = finished
    assert state(folder / "run") is State.FINISHED
    assert "test r2" in run(folder, "loss=mse").stdout
    result = folder / "run/result.json"
    kept = result.read_text()
    result.unlink()
    try:
        ((_, _, epochs, last),) = build([folder], [], []).progress
    finally:
        result.write_text(kept)
    assert (epochs, last) == ("3", f"r2 {json.loads(kept)['test_r2']:.4g}")


@pytest.mark.skipif(sys.platform == "win32", reason="two processes by gloo")
def test_two_processes_measure_all_of_the_test_set(tmp_path):
    done = run(tmp_path / "here", "loss=mse", "trainer.devices=2")
    assert done.returncode == 0, done.stderr
    labels = Diabetes().load(Path())[1].labels
    result = json.loads((tmp_path / "here/run/result.json").read_text())
    assert result["test_r2"] == pytest.approx(r2_score(labels, network(tmp_path / "here")[-1]), rel=1e-4)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            (),
            "for cross-entropy, labels must be class indices (batch,) and outputs of two classes or more, got labels ",
        ),
        (("loss=mse", "loss.reduction=none"), "the loss must be one number, the mean over the batch, got (32, 1)"),
        (("loss=mse", "loss.metrics.gone._target_=torchmetrics.Gone"), "loss.metrics.gone is not possible: "),
        (
            ("loss=mse", "loss.metrics.r2._target_=torch.nn.ReLU"),
            "metric r2 must be a torchmetrics.Metric, of any name but loss, got ReLU",
        ),
        (
            ("loss=mse", "loss.metrics.accuracy._target_=fglight.training.metrics.Accuracy"),
            "labels must be class indices (batch,) for accuracy, got (32, 1) of torch.float32",
        ),
        (("loss=mse", "data.num_classes=2"), "data.num_classes must be 1, as in diabetes, got 2"),
        (("loss=mse", "data.holdout=0.999"), "data.holdout must be a fraction that keeps and holds out"),
    ],
)
def test_what_does_not_go_together_is_one_line(arguments, words, tmp_path):
    done = run(tmp_path / "here", *arguments)
    assert done.returncode == 1
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_a_loss_and_its_metrics_are_differences():
    assert differences(load_config([])) == {}
    assert differences(load_config(["loss=mse"])) == {
        "loss._target_": "fglight.models.MSELoss",
        "loss.metrics.accuracy._target_": None,
        "loss.metrics.mae._target_": "torchmetrics.MeanAbsoluteError",
        "loss.metrics.r2._target_": "torchmetrics.R2Score",
        "loss.name": "mse",
    }
    assert differences(load_config(["loss.label_smoothing=0.1"])) == {"loss.label_smoothing": 0.1}


def test_multi_label_metrics():
    torch.manual_seed(0)
    outputs, labels = torch.randn(2, 20, 10), torch.randint(2, (2, 20, 10))
    metrics = BlockMetrics(1, build_metrics(load_config(["loss=multi_label"])))
    for output, label in zip(outputs, labels):
        metrics.update([torch.tensor(1.0)], [output], label)
    said, true = outputs.flatten(0, 1) > 0, labels.flatten(0, 1) > 0
    f1 = 2 * (said & true).sum(0) / (said.sum(0) + true.sum(0))
    assert metrics.compute()[1][-1]["f1"].item() == pytest.approx(f1.mean().item())
