"""Components of one's own, each a class and a file outside the checkout, from the command line to the report."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from forked import ROOT

from fglight.report.contents import build

README = (ROOT / "README.md").read_text()
QUICK = ("data=digits", "data.batch_size=479", "trainer.max_epochs=1", "logger.mode=disabled")

CLASSES = '''
import torch
from torch import nn
from fglight.data.sources import Digits, ImageSet
from fglight.estimators import GlobalTarget, LocalGuess, WeightPerturbation
from fglight.models import Block, BlockNetwork


class Shifted(LocalGuess):
    """The local gradient in a slightly other direction."""


class Global(GlobalTarget):
    """The network's loss."""


class Weight(WeightPerturbation):
    """Projection in the space of weights."""


class Pool(nn.Sequential):
    """Pooling and a linear layer."""

    def __init__(self, channels, num_classes, **_):
        super().__init__(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, num_classes))


class Threes:
    """Digits, and nothing else, three of a kind."""

    num_classes, shape = Digits.num_classes, Digits.shape

    def prepare(self, root, may_download):
        pass

    def load(self, root):
        return tuple(ImageSet(part.images[:99], part.labels[:99]) for part in Digits().load(root))


def three_blocks(auxiliary, num_classes, in_channels, hidden=4):
    sizes = [in_channels, hidden, hidden, hidden]
    bodies = [nn.Sequential(nn.Conv2d(a, b, 3, padding=1), nn.ReLU()) for a, b in zip(sizes, sizes[1:])]
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(hidden, num_classes))
    return BlockNetwork(map(Block, bodies, [auxiliary(hidden), auxiliary(hidden), head]))
'''

FILES = {
    "guess": "_target_: mine.Shifted\nname: mine\n",
    "target": "_target_: mine.Global\nname: mine\n",
    "perturb": "_target_: mine.Weight\nname: mine\ngranularity: tensor\n",
    "aux": "_target_: mine.Pool\nname: mine\ntrained: true\n",
    "model": "_target_: mine.three_blocks\nname: mine\nhidden: 4\n",
    "data": (ROOT / "conf/data/digits.yaml").read_text().replace("fglight.data.sources.Digits", "mine.Threes"),
}


def block_after(comment: str) -> str:
    """The code in README that begins with a comment."""
    return re.search(rf"```\w+\n{re.escape(comment)}\n(.*?)```", README, re.DOTALL)[1]


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, ROOT / "train.py", "--config-dir", "my_conf", *QUICK, *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)


def result(folder: Path) -> dict:
    (path,) = folder.rglob("result.json")
    return json.loads(path.read_text())


def test_readmes_guess_is_two_files_and_nothing_else(tmp_path):
    (tmp_path / "my_conf/guess").mkdir(parents=True)
    (tmp_path / "my_guesses.py").write_text(block_after("# my_guesses.py"))
    (tmp_path / "my_conf/guess/sparse.yaml").write_text(block_after("# my_conf/guess/sparse.yaml"))
    done = run(tmp_path, "guess=sparse", "model.width=0.0625")
    assert done.returncode == 0, done.stdout + done.stderr
    written = result(tmp_path)
    assert written["cell"]["guess"] == "sparse"
    assert written["cell"]["aux"] == ""
    assert written["recipe"]["lr"] == 0.005  # the random guesses' with weight perturbation
    assert written["differences"]["guess._target_"] == "my_guesses.SparseGuess"
    assert [path.name for path in (tmp_path / "outputs").glob("*digits-8bw0.0625-global-sparse-weight_seed0")]
    ((cell, training, _),) = build([tmp_path / "outputs"], [3], []).outside
    assert cell == "digits, 8 blocks, sparse guess, weight, global target, width 0.0625"
    assert "guess.name sparse" in training


@pytest.mark.parametrize("group", FILES)
def test_a_component_is_two_files_and_nothing_else(group, tmp_path):
    (tmp_path / "my_conf" / group).mkdir(parents=True)
    (tmp_path / "mine.py").write_text(CLASSES)
    (tmp_path / "my_conf" / group / "mine.yaml").write_text(FILES[group])
    small = [] if group == "model" else ["model.width=0.0625"]
    done = run(tmp_path, f"{group}=mine", *small)
    assert done.returncode == 0, done.stdout + done.stderr
    written = result(tmp_path)
    name = "source._target_" if group == "data" else "_target_"
    assert written["differences"][f"{group}.{name}"].startswith("mine.")
    report = build([tmp_path / "outputs"], [3], [])
    assert not any(entry.full for table in report.tables for entry in table.entries)
    if group == "model":
        assert written["cell"]["network"] == "mine"
        assert report.outside


def test_what_a_file_says_falsely_of_its_class_is_refused(tmp_path):
    (tmp_path / "my_conf/guess").mkdir(parents=True)
    (tmp_path / "my_guesses.py").write_text(block_after("# my_guesses.py"))
    said = block_after("# my_conf/guess/sparse.yaml") + "random: false\n"
    (tmp_path / "my_conf/guess/sparse.yaml").write_text(said)
    done = run(tmp_path, "guess=sparse", "model.width=0.0625")
    assert done.returncode == 1
    assert "guess.random=False is not what my_guesses.SparseGuess is: accepted is True" in done.stderr + done.stdout
