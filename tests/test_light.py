"""What comes without torch, each in a process of its own."""

import json
import subprocess
import sys
from dataclasses import replace

import pytest
from forked import ROOT
from written_runs import LOCAL, curves, result, write_metrics, write_run

TRAIN = {
    "--help": "Choose one of each group",
    "guess=nonsense": "low_rank, mixing, momentum, next_block, ntk, rademacher, got nonsense",
    "nonsense=1": "nothing reads it",
    "guess=gaussian guess.direction=2": "did you mean guess.directions?",
    "trainer.max_epoch=2": "did you mean trainer.max_epochs?",
    "data.mean=[1": "cannot be read",
    "optim.lr=-1": "optim.lr must be a number above 0, got -1",
    "data=image_folder data.root=gone": "got gone: there are no images in gone/train",
    "data=image_folder --help": "${folder:num_classes}",
    "-m table=99": "table must be 2 or 3 or",
    "-m table=3 guess=fixed_ntk": "no cell of Table 3 has guess=fixed_ntk",
    "-m table=3 plan=true model.width=-1": "model.width must be a number above 0, got -1",
    "-m table=3 seeds=1 data=digits optim.lr=-1": "optim.lr must be a number above 0, got -1",
    "-m guess=local,ntk trainer.max_epochs=0": "trainer.max_epochs must be a whole number from 1 on, got 0",
}
"""Arguments of ``train.py`` that start nothing, with what they print."""

COMMAND = {
    "--help": "fglight COMMAND --help",
    "--version": "fglight 0.",
    "": "COMMAND",
    "nonsense": "invalid choice: 'nonsense'",
    "train --help": "fglight train guess=gaussian",
    "train --nonsense": "fglight train: error: unrecognized arguments: --nonsense",
    "train guess=nonsense": "low_rank, mixing, momentum, next_block, ntk, rademacher, got nonsense",
    "demo --help": "usage: fglight demo",
    "eval --help": "usage: fglight eval",
    "eval outputs/A optim.lr=1": "it changes what was trained",
    "export --help": "usage: fglight export",
    "report --help": "usage: fglight report",
    "show --help": "usage: fglight show",
    "show nowhere": "FOLDER must be a folder with runs, got nowhere",
    "workspace --help": "usage: fglight workspace",
}
"""The same of ``fglight``."""

MODULES = ("fglight", "fglight.cell", "fglight.config", "fglight.paper.recipes", "fglight.runs")

FORKS = """
import importlib, json, os, runpy, sys
sys.path.insert(0, ROOT)
import hydra  # takes long, and is no part of what is looked at
for kind, arguments in json.load(sys.stdin):
    if os.fork():
        os.wait()
        continue
    sys.argv = arguments
    print("\\f", flush=True)
    os.dup2(1, 2)
    try:
        if kind == "import":
            importlib.import_module(arguments[0])
        elif kind == "run":
            runpy.run_module(arguments[0], run_name="__main__")
        else:
            runpy.run_path(arguments[0], run_name="__main__")
    except SystemExit as stop:
        print(stop.code)
    print("torch" in sys.modules, "lightning" in sys.modules, flush=True)
    os._exit(0)
"""
"""Runs commands that start at once, since each is a fork of a process that has imported what they share."""


def outputs(commands, folder):
    """What commands print, and in their last lines whether torch and Lightning were imported."""
    code = FORKS.replace("ROOT", repr(str(ROOT)), 1)
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        input=json.dumps(commands),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    found = done.stdout.split("\f\n")[1:]
    assert len(found) == len(commands), done.stdout
    return found


@pytest.fixture(scope="module")
def printed(tmp_path_factory):
    """What every command prints."""
    commands = [
        *(("path", [str(ROOT / "train.py"), *arguments.split()]) for arguments in TRAIN),
        *(("run", ["fglight", *arguments.split()]) for arguments in COMMAND),
        *(("import", [module]) for module in MODULES),
    ]
    names = [
        *(("train", arguments) for arguments in TRAIN),
        *(("fglight", arguments) for arguments in COMMAND),
        *MODULES,
    ]
    return dict(zip(names, outputs(commands, tmp_path_factory.mktemp("empty")), strict=True))


@pytest.mark.parametrize("arguments", TRAIN)
def test_help_and_what_is_refused_need_no_torch(arguments, printed):
    output = printed["train", arguments]
    assert TRAIN[arguments] in output
    assert output.splitlines()[-1] == "False False", output


@pytest.mark.parametrize("arguments", COMMAND)
def test_the_command_answers_without_torch(arguments, printed):
    output = printed["fglight", arguments]
    assert COMMAND[arguments] in output
    assert output.splitlines()[-1] == "False False", output


@pytest.mark.parametrize("module", MODULES)
def test_modules_that_know_configurations_and_records_need_no_torch(module, printed):
    assert printed[module].splitlines()[-1] == "False False", printed[module]


def test_a_report_needs_no_torch(tmp_path):
    write_metrics(write_run(tmp_path / "runs/a", result(LOCAL, 0.9)), curves(8, 3))
    write_run(tmp_path / "runs/b", result(replace(LOCAL, perturb="activity"), 0.8))
    (write_run(tmp_path / "runs/old") / "config.yaml").write_text(
        "seed: 2\ndata: {name: digits}\nmodel: {name: resnet18_16, blocks: 16, width: 0.5}\ntarget: {name: global}\n"
        "guess: {name: ntk}\naux: {name: mlp}\nperturb: {name: activity}\n"
    )
    (output,) = outputs([("run", ["fglight", "report", "runs", "--out", "page"])], tmp_path)
    assert "wrote page/index.html" in output
    assert output.splitlines()[-1] == "False False", output
