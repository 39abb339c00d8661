"""What a plan says, and how long its runs take."""

import pytest
from helpers import GUESSES, compose
from planned import configs_of, plan

from fglight.runs.folder import State
from fglight.sweeps import plan as planning
from fglight.sweeps.costs import Steps, Times
from fglight.sweeps.progress import duration


@pytest.fixture
def machine(monkeypatch):
    """One on which every batch takes a second to train on and half of one to test on."""
    monkeypatch.setattr(Steps, "times", lambda self, kind: Times(1, 0.5))


@pytest.mark.parametrize(
    ("trainer", "steps", "tests"),
    [
        ({}, 10 * 1437 / 128, 10 * 360 / 128),
        ({"limit_train_batches": 3, "limit_val_batches": 1}, 30, 10),
        ({"limit_train_batches": 1000, "limit_val_batches": 1000}, 10 * 1437 / 128, 10 * 360 / 128),
        ({"limit_train_batches": 0.5, "limit_val_batches": 0.25}, 5 * 1437 / 128, 2.5 * 360 / 128),
        ({"limit_train_batches": 1.0}, 10 * 1437 / 128, 10 * 360 / 128),
        ({"max_steps": 4}, 4, 360 / 128),
        ({"max_steps": 4, "limit_train_batches": 3}, 4, 2 * 360 / 128),
        ({"max_steps": -1}, 10 * 1437 / 128, 10 * 360 / 128),
        ({"max_steps": 10_000}, 10 * 1437 / 128, 10 * 360 / 128),
        ({"fast_dev_run": True}, 1, 1),
        ({"fast_dev_run": 3, "max_steps": 100}, 3, 3),
        ({"fast_dev_run": False}, 10 * 1437 / 128, 10 * 360 / 128),
    ],
)
def test_a_run_takes_its_steps_and_a_test_after_each_epoch(trainer, steps, tests):
    cfg = compose(data="digits")
    cfg.trainer = {**cfg.trainer, "max_epochs": 10, **trainer}
    assert planning.run_seconds(cfg, Times(3.0, 0.5)) == pytest.approx(3 * steps + 0.5 * tests)


def test_images_held_out_are_not_trained_on():
    cfg = compose({"trainer.max_epochs": 2, "data.holdout": 0.1}, data="digits")
    expected = 2 * (3 * 0.9 * 1437 / 128 + 0.1 * 1437 / 128)
    assert planning.run_seconds(cfg, Times(3.0, 1.0)) == pytest.approx(expected)


def test_a_plan_says_what_is_estimated_and_how_long_all_takes(machine, capsys):
    asked = ["table=8", "perturb=weight", "guess=local", "aux=cnn,mlp", "seeds=1"]
    jobs = plan(*asked)
    states = dict.fromkeys(jobs, State.NEW) | {jobs[0]: State.FINISHED}
    planning.show_plan(jobs, configs_of(*asked), states)
    printed = " ".join(capsys.readouterr().out.split())
    assert "6 cells, 6 runs: estimating 6 kinds of step" in printed
    each = 100 * (50_000 + 10_000 / 2) / 128
    assert f"6 cells, 6 runs, 5 of them to do: about {duration(5 * each)} one after the other on" in printed


def test_a_study_s_plan_has_its_estimators_and_tells_their_scale_once(machine, capsys):
    asked = ["study=guesses", "guess=local", "aux=cnn", "seeds=1", "model.width=0.5", "trainer.max_epochs=3"]
    jobs = plan(*asked)
    planning.show_plan(jobs, configs_of(*asked), dict.fromkeys(jobs, State.NEW))
    printed = capsys.readouterr().out
    assert "digits, model.width=0.5, trainer.max_epochs=3" in map(str.strip, printed.splitlines())
    assert printed.count("digits") == 1
    rows = [line.split("│")[1].strip() for line in printed.splitlines() if "1 new" in line]
    assert rows == ["Local guess, CNN, weight", "Local guess, CNN, activity"]


def test_the_plan_of_an_ordinary_sweep_has_a_line_for_each_configuration(machine, capsys):
    runs = {f"guess={guess} seed={seed}": compose({"seed": seed}, guess=guess) for guess in GUESSES for seed in (0, 1)}
    planning.show_ordinary(runs)
    lines = capsys.readouterr().out.splitlines()
    assert sum("guess=" in line for line in lines) == len(GUESSES)
    assert sum("0,1" in line and "2 new" in line for line in lines) == len(GUESSES)
    assert lines[-1].startswith("6 configurations, 12 runs, 12 of them to do: about")
