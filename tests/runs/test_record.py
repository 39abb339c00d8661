"""What people see of a run."""

from types import SimpleNamespace

import pytest
from rich.console import Console
from written_runs import LOCAL, result

from fglight.runs.record import judged_on, summary
from fglight.training.progress import ProgressBar


@pytest.mark.parametrize(("holdout", "word", "other"), [(0.1, "held-out", "test"), (0.0, "test", "held-out")])
def test_accuracies_of_images_held_out_are_called_so(holdout, word, other, tmp_path, capsys):
    found = result(LOCAL, 0.5, settings={"data.holdout": holdout})
    Console().print(summary(found, tmp_path / "run"))
    out = capsys.readouterr().out
    assert f"{word} accuracy" in out
    assert f"{other} accuracy" not in out
    trainer = SimpleNamespace(progress_bar_metrics={"test/accuracy": 0.5})
    assert ProgressBar(judged_on(holdout), 10).get_metrics(trainer, None) == {word: "50%"}


def rows(words, folder):
    """What the summary of a result tells, by what it is of."""
    first, second = summary(words, folder).columns
    return dict(zip(first.cells, second.cells, strict=True))


STEPS = {"lr": 0.05, "lr_step": 30, "lr_gamma": 0.2, "epochs": 100}


@pytest.mark.parametrize(
    ("recipe", "told"),
    [
        ({}, "0.05, times 0.2 every 30 epochs, 100 epochs"),
        ({"lr_step": 1, "epochs": 1}, "0.05, times 0.2 every 1 epoch, 1 epoch"),
        ({"lr_step": None}, "0.05, 100 epochs"),
        ({"lr_gamma": None}, "0.05, 100 epochs"),
        ({"lr": None, "lr_step": None, "lr_gamma": None}, "100 epochs"),
    ],
)
def test_a_summary_tells_as_much_of_the_schedule_as_there_is(recipe, told, tmp_path):
    assert rows(result(LOCAL, 0.5) | {"recipe": STEPS | recipe}, tmp_path)["learning rate"] == told


def test_a_summary_tells_what_came_of_a_run_and_how_far_it_got(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ended = {"epoch": 3, "steps": 7, "test_accuracy": 0.875, "train_accuracy": 1.0, "time_s": 12.6, "device": "cpu"}
    told = rows(result(LOCAL, 0.5) | ended | {"recipe": STEPS, "differences": {"clip_norm": 1.0}}, tmp_path / "run")
    assert told == {
        "test accuracy": "[bold]87.5 %[/bold]",
        "train accuracy": "100.0 %",
        "time": "13 s on cpu",
        "learning rate": "0.05, times 0.2 every 30 epochs, 100 epochs",
        "trained": "7 steps, to epoch 4 of 100",
        "clip_norm": "1.0",
        "run directory": "run",
    }
