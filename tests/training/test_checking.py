"""``check=true`` and ``verify=true``: what they print of a run, and how they end."""

import pytest
from forked import train_py
from torch import nn

from fglight import build_model, load_config
from fglight.estimators import ReverseMode
from fglight.training.checking import show_check, show_verification

TINY = ["model.width=0.015625", "data=digits"]


@pytest.mark.parametrize("perturb", ["activity", "weight", "weight_per_sample"])
def test_a_step_is_held_against_its_definition(perturb, capsys):
    assert show_verification(load_config([*TINY, f"perturb={perturb}"]))
    told = capsys.readouterr().out
    assert "engine=reverse  agrees in" in told
    assert "engine=forward  agrees in" in told
    assert ("samples are coupled in block 0, 1, BatchNorm2d\n" in told) == (perturb != "weight")
    assert told.endswith("5 samples in double precision, each engine beside plain autograd. Nothing was trained.\n")


def test_a_difference_is_told_and_is_no_success(monkeypatch, capsys):
    products = ReverseMode.products

    def doubled(self, *given, **named):
        for parts, found, squares in products(self, *given, **named):
            yield parts, [2 * one for one in found], squares

    monkeypatch.setattr(ReverseMode, "products", doubled)
    assert not show_verification(load_config(TINY))
    assert "block 0, 0, Conv2d: weight is off by 1.0e+00 of its largest entry" in capsys.readouterr().out


def test_an_engine_that_refuses_the_run_is_no_success(monkeypatch, capsys):
    def with_dropout(cfg):
        model = build_model(cfg)
        model.blocks[0].body.append(nn.Dropout(0.5))
        return model

    monkeypatch.setattr("fglight.training.checking.build_model", with_dropout)
    assert show_verification(load_config(TINY))
    cfg = load_config([*TINY, "engine=forward"])
    assert not show_verification(cfg)
    assert not show_check(cfg)
    assert capsys.readouterr().out.count("engine=forward  refused: engine=forward runs a block several times") == 2


def test_on_the_command_line_nothing_is_trained(tmp_path):
    done = train_py(tmp_path, *TINY, "verify=true", "check=true")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Nothing was trained.") == 2
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize("setting", ["check", "verify"])
def test_single_runs_are_looked_at(setting, tmp_path):
    done = train_py(tmp_path, "-m", f"{setting}=true", "seed=0,1")
    assert done.returncode != 0
    assert f"{setting}=true looks at a single run: leave out -m" in done.stderr + done.stdout


def test_what_is_wrong_is_told_in_a_line(tmp_path):
    done = train_py(
        tmp_path, *TINY, "verify=true", "engine=finite", "loss=accuracy", "exact_blocks=0", "guess=gaussian"
    )
    assert done.returncode == 1
    assert done.stderr.startswith("verify=true: the loss must have a gradient here, and ErrorRate has none")
