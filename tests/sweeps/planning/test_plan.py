"""What a plan says, and how long its runs take."""

import pytest
from helpers import GUESSES, compose
from planned import configs_of, plan

from fglight.runs.folder import State
from fglight.sweeps.planning import costs
from fglight.sweeps.planning import plan as planning


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
    assert planning.run_seconds(cfg, costs.Times(3.0, 0.5)) == pytest.approx(3 * steps + 0.5 * tests)


def test_images_held_out_are_not_trained_on():
    cfg = compose({"trainer.max_epochs": 2, "data.holdout": 0.1}, data="digits")
    expected = 2 * (3 * 0.9 * 1437 / 128 + 0.1 * 1437 / 128)
    assert planning.run_seconds(cfg, costs.Times(3.0, 1.0)) == pytest.approx(expected)


def test_a_plan_says_what_was_timed_and_how_the_rest_follows(machine, capsys):
    asked = ["table=8", "perturb=weight", "guess=local", "aux=cnn,mlp", "seeds=1"]
    jobs = plan(*asked)
    planning.show_plan(jobs, configs_of(*asked), dict.fromkeys(jobs, State.NEW))
    printed = " ".join(capsys.readouterr().out.split())
    assert "6 cells, 6 runs: timing 6 parts of a step for 6 kinds of step" in printed
    assert printed.count("~ ") == 4 + 1  # the fifth is in the note
    assert "backpropagation its estimator takes on resnet18_16, width 0.5, 3x32x32." in printed
    assert "6 cells, 6 runs, 6 of them to do: about" in printed


def test_a_plan_of_one_network_has_no_note(machine, capsys):
    jobs = plan("table=3", "guess=exact", "data=cifar10", "seeds=1")
    planning.show_plan(jobs, configs_of("table=3", "guess=exact", "data=cifar10", "seeds=1"), {jobs[0]: State.FINISHED})
    printed = " ".join(capsys.readouterr().out.split())
    assert "1 cell, 1 run: timing 2 parts of a step for 1 kind of step" in printed
    assert "~" not in printed
    assert "1 cell, 1 run, 0 of them to do: about 0 s" in printed


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
