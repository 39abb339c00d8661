"""``fglight eval``: trained networks on test sets."""

import json
import shutil

import pytest
import torch
from image_files import write_image_folder
from text_files import write_network, write_texts
from torch.nn.functional import cross_entropy

from fglight import load_config
from fglight.build import build_data
from fglight.evaluate import main
from fglight.runs.folder import write_config
from fglight.runs.settings import run_settings
from fglight.training.run import train
from fglight.training.weights import TrainedRun

QUICK = (
    "model=mlp",
    "model.hidden=[8,8]",
    "aux=linear",  # with batch norm, whose running statistics count
    "trainer.max_epochs=1",
    "trainer.limit_train_batches=2",
    "trainer.accelerator=cpu",
    "trainer.enable_progress_bar=false",
    "logger.mode=disabled",
)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "run"
    train(load_config(QUICK), folder)
    return folder


@pytest.fixture
def told(capsys, monkeypatch):
    """What the command tells: ``(exit status, standard output, standard error)``."""
    monkeypatch.setenv("COLUMNS", "150")

    def tell(*arguments):
        capsys.readouterr()
        status = main([str(argument) for argument in arguments])
        return status, *capsys.readouterr()

    return tell


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_run_is_worth_what_it_was_at_its_end_and_nothing_is_written(run, told):
    before = contents(run)
    status, out, err = told(run, "--json")
    (evaluation,) = json.loads(out)
    result = json.loads((run / "result.json").read_text())
    assert (status, err) == (0, "")
    assert contents(run) == before
    expected = {"accuracy": result["test_accuracy"], "loss": result["test_loss"]}
    assert evaluation["metrics"] == pytest.approx(expected, rel=1e-6)
    facts = {"run": str(run), "epochs": 1, "max_epochs": 1, "finished": True, "data": "digits", "split": "test"}
    assert {name: evaluation[name] for name in facts} == facts


def test_auxiliary_networks_are_evaluated_on_their_blocks(run, told):
    trained = TrainedRun.read(run)
    network, data = trained.network().eval(), build_data(trained.cfg)
    data.setup()
    batches = list(data.val_dataloader())
    images, labels = (torch.cat(parts) for parts in zip(*batches))
    block = network.blocks[0]
    with torch.no_grad():
        logits = block.aux(block.body(images))
    expected = {
        "accuracy": (logits.argmax(1) == labels).double().mean().item(),
        "loss": cross_entropy(logits, labels).item(),
    }
    (evaluation,) = json.loads(told(run, "--json")[1])
    assert evaluation["auxiliaries"].keys() == {"0"}
    assert evaluation["auxiliaries"]["0"] == pytest.approx(expected, rel=1e-5)


def test_the_table_has_a_row_for_each_network(run, told, tmp_path):
    other = shutil.copytree(run, tmp_path / "other")
    (other / "result.json").unlink()
    without = load_config([*QUICK, "guess=exact", "trainer.max_epochs=3"])  # auxiliary networks
    write_config(run_settings(without), other)
    status, out, err = told(run, other, "trainer.enable_progress_bar=false")
    assert status == 0, err
    rows = [[cell.strip() for cell in line.strip("│").split("│")] for line in out.splitlines() if line[0] == "│"]
    assert [row[:3] for row in rows] == [
        [str(run), "1", "digits, test"],
        ["block 0's auxiliary", "", ""],
        [str(other), "1 of 3, unfinished", "digits, test"],
    ]
    assert rows[0][3:] == rows[2][3:]


def test_settings_choose_what_it_is_evaluated_on(run, told, tmp_path):
    def of(*settings):
        status, out, err = told(run, *settings, "--json")
        assert status == 0, err
        (evaluation,) = json.loads(out)
        return evaluation

    whole = of()
    assert of("data.batch_size=7")["metrics"] == pytest.approx(whole["metrics"], rel=1e-5)
    assert of("trainer.precision=64-true")["metrics"] == pytest.approx(whole["metrics"], rel=1e-5)
    assert of("data.batch_size=20", "trainer.limit_val_batches=1")["metrics"] != whole["metrics"]
    held_out = of("data.holdout=0.5")
    assert held_out["split"] == "held-out"
    assert held_out["metrics"] != whole["metrics"]
    write_image_folder(tmp_path / "mine", (1, 8, 8), classes="abcdefghij")
    mine = of(f"data.root={tmp_path / 'mine'}", "data=image_folder")  # a choice comes first, wherever it stands
    assert mine["data"] == "mine"


def test_another_folder_is_another_data_set(told, tmp_path):
    for name, classes in (("one", "abc"), ("other", "abc"), ("fewer", "ab")):
        write_image_folder(tmp_path / name, (1, 8, 8), classes=classes)
    images = ("data=image_folder", "data.batch_size=6")
    train(load_config([*QUICK, *images, f"data.root={tmp_path / 'one'}"]), tmp_path / "run")
    (evaluation,) = json.loads(told(tmp_path / "run", f"data.root={tmp_path / 'other'}", "--json")[1])
    assert evaluation["data"] == "other"
    _, _, err = told(tmp_path / "run", f"data.root={tmp_path / 'fewer'}")
    assert err.endswith("data.num_classes must be 3, as the network was trained on one, got 2 of fewer\n")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["data=cifar10"], "data.in_channels must be 1, as the network was trained on digits, got 3 of cifar10"),
        (["data=diabetes"], "data.num_classes must be 10, as the network was trained on digits, got 1 of diabetes"),
        (["data=image_folder", "data.root=ten"], "data.image_size must be 8, as the network was trained on, got 16 of"),
        (["data=text", "data.root=reviews", "data.tokenizer=bert"], "data.num_classes must be 10"),
        (["data=nonsense"], "data must be cifar10 or"),
        (["data.nonsense=1"], "data.nonsense=1 is not possible, nothing reads it"),
        (["data.batch_size=-1"], "data.batch_size must be a whole number"),
        (["data.holdout=0.5", "data.batch_size=[1"], "data.batch_size=[1 cannot be read"),
        (["optim.lr=1"], "optim.lr=1 is not possible, for it changes what was trained: there are data, "),
        (["data.batch_size=4,8"], "data.batch_size=4,8 is not possible, a setting must have one value"),
        (["~data.batch_size=128"], "~data.batch_size=128 is not possible, a setting must have one value"),
    ],
)
def test_what_does_not_fit_is_one_line(settings, words, run, told, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_image_folder(tmp_path / "ten", (1, 16, 16), classes="abcdefghij")
    write_texts(tmp_path / "reviews")
    write_network(tmp_path / "bert")
    status, out, err = told(run, *settings)
    assert (status, out) == (1, "")
    assert words in err
    assert err.startswith("error: ")
    assert err.count("\n") == 1


def test_a_run_that_cannot_be_read_leaves_the_others(run, told, tmp_path):
    for name in ("empty", "untrained", "damaged", "changed"):
        (tmp_path / name).mkdir()
    shutil.copy(run / "config.yaml", tmp_path / "untrained")
    for name in ("damaged", "changed"):
        shutil.copytree(run, tmp_path / name, dirs_exist_ok=True)
    (tmp_path / "damaged/checkpoints/last.ckpt").write_bytes(b"none")
    changed = (tmp_path / "changed/config.yaml").read_text().replace("- 8\n", "- 9\n")
    (tmp_path / "changed/config.yaml").write_text(changed)
    folders = [tmp_path / name for name in ("missing", "empty", "untrained", "damaged", "changed")]
    status, out, err = told(*folders, run, "--json")
    assert status == 1
    assert [evaluation["run"] for evaluation in json.loads(out)] == [str(run)]
    lines = err.splitlines()
    assert [line.split(": ")[1] for line in lines] == [str(folder) for folder in folders]
    for line, words in zip(
        lines,
        (
            "it must be the folder of a run, with config.yaml and checkpoints/last.ckpt",
            "it must be the folder of a run",
            "there is no checkpoint",
            "is damaged, or no checkpoint of a run",
            "does not fit config.yaml: blocks.0.body.1.weight is (9, 64) in the network, and (8, 64) in the checkpoint",
        ),
        strict=True,
    ):
        assert words in line


def test_a_checkpoint_in_a_folder_is_one_of_its_run(run, told):
    (evaluation,) = json.loads(told(run / "checkpoints" / "last.ckpt", "--json")[1])
    assert evaluation["finished"]
    assert evaluation["metrics"] == json.loads(told(run, "--json")[1])[0]["metrics"]
