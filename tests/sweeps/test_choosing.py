"""Hydra's own ways to sweep: Optuna's sweeper, which chooses settings by results, and joblib's launcher."""

import json
import os
import subprocess
import sys

import pytest
from forked import ROOT, train_py
from omegaconf import OmegaConf

SMALL = ("model.width=0.015625", "trainer.max_epochs=1", "trainer.limit_train_batches=2", "trainer.accelerator=cpu")
QUIET = ("logger.mode=disabled", "trainer.enable_progress_bar=false")
OPTUNA = ("-m", "hydra/sweeper=optuna", "hydra.sweep.dir=study", "hydra.sweeper.n_trials=4", *SMALL, *QUIET)


def test_optuna_chooses_by_the_accuracy_on_images_held_out_and_goes_on(tmp_path):
    command = (*OPTUNA, "optim.lr=interval(0.01,0.1)", "data.holdout=0.1")
    done = train_py(tmp_path, *command)
    assert done.returncode == 0, done.stderr
    files = sorted((tmp_path / "study").glob("*/result.json"))
    trials = [json.loads(file.read_text()) for file in files]
    assert len(trials) == 4
    assert all(trial["differences"]["data.holdout"] == 0.1 for trial in trials)
    rates = [trial["recipe"]["lr"] for trial in trials]
    assert len(set(rates)) == 4
    assert all(0.01 <= rate <= 0.1 for rate in rates)

    best = OmegaConf.load(tmp_path / "study" / "optimization_results.yaml")
    accuracies = [trial["test_accuracy"] for trial in trials]
    assert best.best_value == max(accuracies)
    assert best.best_params["optim.lr"] == rates[accuracies.index(max(accuracies))]

    times = [file.stat().st_mtime_ns for file in files]
    again = train_py(tmp_path, *command, "hydra.sweeper.n_trials=5")
    assert again.returncode == 0, again.stderr
    assert [file.stat().st_mtime_ns for file in files] == times
    assert len(list((tmp_path / "study").glob("*/result.json"))) == 5


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["optim.lr=interval(0.01,0.1)"], "data.holdout must be a part of the images of training"),
        (["optim.lr=interval(-0.1,0.1)", "data.holdout=0.1"], "optim.lr must be a number above 0, got -0.1"),
        (["guess=choice(gaussian,local)", "guess.directions=2", "data.holdout=0.1"], "guess.directions=2 is not"),
        (
            ["seed=range(2)", "data.holdout=0.1", "hydra.sweeper.n_trials=0"],
            "hydra.sweeper.n_trials must be a whole number",
        ),
        (
            ["hydra.sweeper.direction=minimize"],
            "hydra.sweeper.direction must be maximize, got minimize",
        ),
        (["data.holdout=0.1", "table=3"], "table=3 belongs to a sweep of tables, figures or studies"),
    ],
)
def test_what_no_trial_can_be_is_refused_in_one_line_before_the_first(overrides, words, tmp_path):
    refused = train_py(tmp_path, *OPTUNA, *overrides)
    assert refused.returncode == 1
    assert [line for line in refused.stderr.splitlines() if line.startswith(words)]
    assert "Traceback" not in refused.stderr
    assert "Error executing job" not in refused.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_joblib_runs_jobs_side_by_side(tmp_path):
    """In a process that is no fork, as joblib's own are."""
    jobs = ("-m", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "hydra.sweep.dir=runs", "seed=0,1")
    command = [sys.executable, ROOT / "train.py", *jobs, *SMALL, *QUIET]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    results = [json.loads(file.read_text()) for file in (tmp_path / "runs").glob("*/result.json")]
    assert {result["seed"] for result in results} == {0, 1}
    assert all(result["device"] == "cpu, 1 threads" for result in results)
