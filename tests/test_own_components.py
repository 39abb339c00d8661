"""Components of one's own, each a class and a file outside the checkout, from the command line to the report."""

import json
import re
import subprocess
from pathlib import Path

import pytest
from forked import ROOT, train_py

from fglight.report.contents import build

PAGE = (ROOT / "docs/own-components.md").read_text()
QUICK = ("data=digits", "data.batch_size=479", "trainer.max_epochs=1", "logger.mode=disabled")

CLASSES = '''
import torch
from torch import nn
from fglight.data.sources import Digits
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
        return tuple(part.part(slice(99)) for part in Digits().load(root))


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


DATA = '''
import lightning
import torch
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader, TensorDataset


class Plain(lightning.LightningDataModule):
    """Digits as anybody's code has them, with nothing of fglight's."""

    def __init__(self, size: int = 32):
        super().__init__()
        self.size = size

    def setup(self, stage: str):
        digits = load_digits()
        images = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 16
        sets = TensorDataset(images, torch.tensor(digits.target))
        self.train, self.val = torch.utils.data.random_split(sets, [1437, 360], torch.Generator().manual_seed(0))

    def train_dataloader(self):
        return DataLoader(self.train, self.size, shuffle=True)

    def val_dataloader(self):
        return DataLoader(self.val, self.size)


class Seeded(Plain):
    def __init__(self, seed, name, batch_size):
        super().__init__(batch_size)
        assert (seed, name) == (3, "mine")


class Untested(lightning.LightningDataModule):
    def train_dataloader(self):
        return []


class Other:
    pass
'''

SAID = "name: mine\nnum_classes: 10\nin_channels: 1\nimage_size: 8\nbatch_size: 479\n"


def block_after(comment: str) -> str:
    """The code in the documentation that begins with a comment."""
    return re.search(rf"```\w+\n{re.escape(comment)}\n(.*?)```", PAGE, re.DOTALL)[1]


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    return train_py(folder, "--config-dir", "my_conf", *QUICK, *arguments)


def test_a_file_of_ones_own_takes_the_place_of_its_shipped_namesake(tmp_path):
    (tmp_path / "my_conf/optim").mkdir(parents=True)
    (tmp_path / "my_conf/optim/sgd.yaml").write_text("_target_: torch.optim.SGD\nname: sgd\nlr: 0.05\nmomentum: 0.5\n")
    shown = run(tmp_path, "--cfg", "job").stdout
    assert "momentum: 0.5" in shown
    assert "weight_decay" not in shown
    assert train_py(tmp_path, "--config-dir", "gone").stderr == "--config-dir must be a folder, got gone\n"


def result(folder: Path) -> dict:
    (path,) = folder.rglob("result.json")
    return json.loads(path.read_text())


def test_the_documentations_guess_is_two_files_and_nothing_else(tmp_path):
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


@pytest.mark.parametrize(("name", "settings"), [("Plain", "size: 479\n"), ("Seeded", "")])
def test_a_data_module_of_one_s_own_gets_the_settings_that_it_takes(name, settings, tmp_path):
    (tmp_path / "my_conf/data").mkdir(parents=True)
    (tmp_path / "mine.py").write_text(DATA)
    (tmp_path / "my_conf/data/mine.yaml").write_text(f"_target_: mine.{name}\n{SAID}{settings}")
    done = run(tmp_path, "data=mine", "model.width=0.0625", "seed=3")
    assert done.returncode == 0, done.stdout + done.stderr
    written = result(tmp_path)
    assert written["steps"] == 3
    assert written["cell"]["data"] == "mine"
    assert written["differences"]["data._target_"] == f"mine.{name}"


@pytest.mark.parametrize(
    ("name", "argument", "message"),
    [
        ("Untested", "seed=0", "data._target_ must be a LightningDataModule with train_dataloader and val_dataloader"),
        ("Other", "seed=0", "data._target_ must be a LightningDataModule with train_dataloader and val_dataloader"),
        ("Plain", "trainer.devices=2", "of which each process would have all batches, got 2"),
        ("Plain", "data.sice=8", "data.sice=8 is not possible, nothing reads it: did you mean data.size?"),
    ],
)
def test_a_data_module_that_a_run_cannot_use_is_refused_in_one_line(name, argument, message, tmp_path):
    (tmp_path / "my_conf/data").mkdir(parents=True)
    (tmp_path / "mine.py").write_text(DATA)
    (tmp_path / "my_conf/data/mine.yaml").write_text(f"_target_: mine.{name}\n{SAID}")
    done = run(tmp_path, "data=mine", "model.width=0.0625", "trainer.accelerator=cpu", argument)
    assert done.returncode != 0
    assert message in done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr


CALLBACK = """
import lightning

class Notes(lightning.Callback):
    def __init__(self, path):
        self.path = path

    def on_train_epoch_end(self, trainer, module):
        with open(self.path, "a") as file:
            file.write(f"{trainer.current_epoch} {trainer.callback_metrics['test/accuracy']:.1f}\\n")
"""


def test_callbacks_of_one_s_own_beside_those_that_ship(tmp_path):
    (tmp_path / "my_conf/callbacks").mkdir(parents=True)
    (tmp_path / "mine.py").write_text(CALLBACK)
    (tmp_path / "my_conf/callbacks/notes.yaml").write_text("notes:\n  _target_: mine.Notes\n  path: notes.txt\n")
    stop = [f"callbacks.early_stopping.{setting}" for setting in ("patience=1", "min_delta=100")]
    chosen = ["callbacks=[early_stopping,notes]", *stop, "trainer.max_epochs=5", "model.width=0.0625"]
    done = run(tmp_path, *chosen)
    assert done.returncode == 0, done.stdout + done.stderr
    written = result(tmp_path)
    assert written["epoch"] == 1
    assert "to epoch 2 of 5" in done.stdout
    assert written["differences"]["callbacks.notes.path"] == "notes.txt"
    assert written["differences"]["callbacks.early_stopping.patience"] == 1
    assert [line.split()[0] for line in (tmp_path / "notes.txt").read_text().splitlines()] == ["0", "1"]


def test_what_a_file_says_falsely_of_its_class_is_refused(tmp_path):
    (tmp_path / "my_conf/guess").mkdir(parents=True)
    (tmp_path / "my_guesses.py").write_text(block_after("# my_guesses.py"))
    said = block_after("# my_conf/guess/sparse.yaml") + "random: false\n"
    (tmp_path / "my_conf/guess/sparse.yaml").write_text(said)
    done = run(tmp_path, "guess=sparse", "model.width=0.0625")
    assert done.returncode == 1
    assert (
        "guess.random must be True, which my_guesses.SparseGuess is, or be left out, got False"
        in done.stderr + done.stdout
    )
