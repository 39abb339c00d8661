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
