"""What comes without torch, each in a process of its own."""

import json
import subprocess
import sys
from dataclasses import replace

import pytest
from forked import ROOT
from written_runs import LOCAL, curves, result, write_metrics, write_run

WITHOUT = """
import runpy, sys
try:
    {how}
except SystemExit as stop:
    print(stop.code)
print("torch" in sys.modules, "lightning" in sys.modules)
"""
TRAIN = WITHOUT.format(how="runpy.run_path(sys.argv[0], run_name='__main__')")
COMMAND = WITHOUT.format(how="runpy.run_module('fglight', run_name='__main__')")


def last_lines(code, *arguments, folder):
    set_arguments = f"import sys; sys.argv = {[str(argument) for argument in arguments]!r}\n"
    command = [sys.executable, "-c", f"import os, sys; sys.path.insert(0, {str(ROOT)!r})\n{set_arguments}{code}"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60)
    return done.stdout.splitlines()[-1], done.stdout + done.stderr


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--help"], "Choose one of each group"),
        (["guess=nonsense"], "Could not find 'guess/nonsense'"),
        (["nonsense=1"], "nothing reads it"),
        (["guess=gaussian", "guess.direction=2"], "did you mean guess.directions?"),
        (["trainer.max_epoch=2"], "did you mean trainer.max_epochs?"),
        (["data.mean=[1"], "cannot be read"),
        (["optim.lr=-1"], "optim.lr=-1 is not possible"),
        (["data=image_folder", "data.root=gone"], "data.root=gone is not possible, there are no images in gone/train"),
        (["data=image_folder", "--help"], "${folder:num_classes}"),
        (["-m", "table=99"], "table=99 is not possible"),
        (["-m", "table=3", "guess=fixed_ntk"], "no cell of Table 3 has guess=fixed_ntk"),
        (["-m", "table=3", "plan=true", "model.width=-1"], "model.width=-1 is not possible"),
        (["-m", "table=3", "seeds=1", "data=digits", "optim.lr=-1"], "optim.lr=-1 is not possible"),
        (["-m", "guess=local,ntk", "trainer.max_epochs=0"], "trainer.max_epochs=0 is not possible"),
    ],
)
def test_help_and_what_is_refused_need_no_torch(arguments, says, tmp_path):
    last, output = last_lines(TRAIN, ROOT / "train.py", *arguments, folder=tmp_path)
    assert says in output
    assert last == "False False", output


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--help"], "fglight COMMAND --help"),
        (["--version"], "fglight 0."),
        ([], "COMMAND"),
        (["nonsense"], "invalid choice: 'nonsense'"),
        (["train", "--help"], "fglight train guess=gaussian"),
        (["train", "--nonsense"], "fglight train: error: unrecognized arguments: --nonsense"),
        (["train", "guess=nonsense"], "Could not find 'guess/nonsense'"),
        (["demo", "--help"], "usage: fglight demo"),
        (["report", "--help"], "usage: fglight report"),
        (["workspace", "--help"], "usage: fglight workspace"),
    ],
)
def test_the_command_answers_without_torch(arguments, says, tmp_path):
    last, output = last_lines(COMMAND, "fglight", *arguments, folder=tmp_path)
    assert says in output
    assert last == "False False", output


def test_a_report_needs_no_torch(tmp_path):
    write_metrics(write_run(tmp_path / "runs/a", result(LOCAL, 0.9)), curves(8, 3))
    write_run(tmp_path / "runs/b", result(replace(LOCAL, perturb="activity"), 0.8))
    (write_run(tmp_path / "runs/old") / "config.yaml").write_text(
        "seed: 2\ndata: {name: digits}\nmodel: {name: resnet18_16, blocks: 16, width: 0.5}\ntarget: {name: global}\n"
        "guess: {name: ntk}\naux: {name: mlp}\nperturb: {name: activity}\n"
    )
    last, output = last_lines(COMMAND, "fglight", "report", "runs", "--out", "page", folder=tmp_path)
    assert "wrote page/index.html" in output
    assert last == "False False", output


@pytest.mark.parametrize(
    "module", ["fglight", "fglight.cell", "fglight.config", "fglight.paper.recipes", "fglight.runs"]
)
def test_modules_that_know_configurations_and_records_need_no_torch(module, tmp_path):
    code = f"import sys, {module}, json; print(json.dumps('torch' in sys.modules))"
    last, output = last_lines(code, "x", folder=tmp_path)
    assert json.loads(last) is False, output
