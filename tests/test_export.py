"""``fglight export``: trained networks in the hands of the libraries that they come from."""

import json

import pytest
import timm
import torch
from helpers import QUICK
from safetensors.torch import load_file
from text_files import VOCABULARY, write_network, write_texts
from torch import nn
from torchvision import models
from transformers import AutoModelForSequenceClassification

from fglight import load_config
from fglight.export import main
from fglight.training.run import train
from fglight.training.weights import TrainedRun


def trained(folder, *settings):
    """The folder of a short run, and the network that came of it, for use."""
    train(load_config([*QUICK, *settings]), folder)
    return folder, TrainedRun.read(folder).network().eval()


def exported(capsys, *arguments):
    """What the command tells: ``(exit status, standard output, standard error)``."""
    capsys.readouterr()
    return main([str(argument) for argument in arguments]), *capsys.readouterr()


def assert_same(module, network, batch, given=None):
    with torch.no_grad():
        logits = module.eval()(**given) if given is not None else module.eval()(batch)
        torch.testing.assert_close(getattr(logits, "logits", logits), network(batch), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", ["all", "lora"])
def test_a_network_of_timm_s(kind, tmp_path, capsys):
    run, network = trained(tmp_path / "run", "model=timm", "model.network=resnet10t", f"trained={kind}")
    for name, load in (("a.pt", torch.load), ("a.safetensors", load_file)):
        status, out, _ = exported(capsys, run, tmp_path / name)
        assert (status, out) == (0, f"{tmp_path / name}: ResNet of {run} at epoch 1\n")
        plain = timm.create_model("resnet10t", num_classes=10, in_chans=1)
        plain.load_state_dict(load(tmp_path / name))
        assert_same(plain, network, torch.randn(4, 1, 8, 8))


@pytest.mark.parametrize(("model", "kind"), [("bert", "all"), ("bert", "lora"), ("gpt2", "lora")])
def test_a_network_of_transformers(model, kind, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_network(tmp_path / model, model)
    write_texts(tmp_path / "reviews")
    chosen = (f"model.path={model}", "model.pretrained=false", "model.blocks=2", "data.root=reviews", "data.length=16")
    run, network = trained(tmp_path / "run", "model=transformers", "data=text", *chosen, f"trained={kind}")
    assert exported(capsys, run, "out")[0] == 0
    plain = AutoModelForSequenceClassification.from_pretrained("out")
    ids = torch.randint(2, len(VOCABULARY), (4, 6))
    mask = torch.ones_like(ids)
    batch = torch.stack([ids, mask], 1)
    assert_same(plain, network, batch, {"input_ids": ids, "attention_mask": mask})
    assert exported(capsys, run, "out.pt")[0] == 0
    plain.load_state_dict(torch.load("out.pt"))
    (tmp_path / "file").touch()
    assert "file cannot be written" in exported(capsys, run, "file")[2]


def test_a_network_of_torchvision_s_takes_three_colours(tmp_path, capsys):
    run, network = trained(tmp_path / "run", "model=torchvision", "exact_blocks=2", "model.arguments.width_mult=0.25")
    assert exported(capsys, run, tmp_path / "a.pth")[0] == 0
    plain = models.mobilenet_v3_small(num_classes=10, width_mult=0.25, dropout=0.0)
    plain.load_state_dict(torch.load(tmp_path / "a.pth"))
    images = torch.randn(4, 1, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(plain.eval()(images.expand(-1, 3, -1, -1)), network(images), rtol=1e-5, atol=1e-5)


class Own(nn.Sequential):
    """A network of a user's."""

    def __init__(self, num_classes):
        super().__init__(
            nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, num_classes)
        )


def test_a_module_of_one_s_own_in_double_precision(tmp_path, capsys):
    chosen = ("model._target_=test_export.Own", "model.cuts=['3']", "trainer.precision=64-true")
    run, network = trained(tmp_path / "run", "model=any", *chosen)
    assert exported(capsys, run, tmp_path / "a.pt")[0] == 0
    plain = Own(10).double()
    plain.load_state_dict(torch.load(tmp_path / "a.pt"))
    assert plain[1].weight.dtype == torch.load(tmp_path / "a.pt")["1.weight"].dtype == torch.float64
    assert_same(plain, network, torch.randn(4, 1, 8, 8, dtype=torch.float64))


def test_what_cannot_be_written_is_told(tmp_path, capsys):
    run, _ = trained(tmp_path / "run", "model=any", "model._target_=test_export.Own", "model.cuts=['3']")
    paper, _ = trained(tmp_path / "paper", "model.width=0.015625")
    (tmp_path / "file").touch()
    for folder, out, words in (
        (tmp_path / "gone", "a.pt", "it must be the folder of a run"),
        (paper, "a.pt", "its network must be cut from a module, as that of model=timm is, got model=resnet18_8"),
        (run, "folder", "OUT must end in .pt, .pth, .safetensors for a Own, got"),
        (run, "missing/a.pt", "cannot be written"),
        (run, "file/a.safetensors", "cannot be written"),
    ):
        status, printed, err = exported(capsys, folder, tmp_path / out)
        assert (status, printed) == (1, "")
        assert err.startswith(f"error: {folder}: ")
        assert words in err
        assert err.count("\n") == 1


def test_a_run_that_goes_on_is_said_to_be_unfinished(tmp_path, capsys):
    run, _ = trained(tmp_path / "run", "model=any", "model._target_=test_export.Own", "model.cuts=['3']")
    result = json.loads((run / "result.json").read_text())
    (run / "result.json").write_text(json.dumps(result | {"steps": 1}))
    assert exported(capsys, run, tmp_path / "a.pt")[1].endswith("at epoch 1 of 1, unfinished\n")
