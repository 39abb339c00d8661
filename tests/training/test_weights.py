"""Runs that begin with the weights of another's."""

import pytest
import torch
from helpers import QUICK
from image_files import write_image_folder

from fglight import build_model, load_config
from fglight.errors import ConfigError
from fglight.training.run import train
from fglight.training.weights import TrainedRun, begin_with

MLP = ("model=mlp", "model.hidden=[8,8,8]")
TIMM = ("model=timm", "model.network=resnet10t")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def mlp(folder):
    train(load_config([*QUICK, *MLP]), folder / "mlp")
    return folder / "mlp"


@pytest.fixture(scope="module")
def adapted(folder):
    """A network of timm's in four blocks, of which adapters are trained."""
    train(load_config([*QUICK, *TIMM, "trained=lora"]), folder / "adapted")
    return folder / "adapted"


def built(*overrides):
    torch.manual_seed(1)
    return build_model(load_config([*QUICK, *overrides]))


def outputs(network, size=8):
    torch.manual_seed(0)
    with torch.no_grad():
        return network.eval()(torch.randn(4, 1, size, size))


def assert_same(network, other):
    state, expected = network.state_dict(), other.state_dict()
    assert state.keys() == expected.keys()
    assert all(torch.equal(state[name], expected[name]) for name in state)


@pytest.mark.parametrize("path", ["", "checkpoints/last.ckpt"])
def test_all_that_is_alike_is_taken_over(path, mlp):
    network = built(*MLP)
    before = torch.random.get_rng_state()
    assert begin_with(network, mlp / path, 10) == []
    assert torch.equal(torch.random.get_rng_state(), before)
    assert_same(network, TrainedRun.read(mlp).network())
    assert all(parameter.is_leaf and parameter.requires_grad for parameter in network.parameters())


def test_auxiliary_networks_of_another_kind_stay_new(mlp):
    network, fresh = built(*MLP, "aux=mlp"), built(*MLP, "aux=mlp")
    assert begin_with(network, mlp, 10) == ["blocks.0.aux", "blocks.1.aux"]
    trained = TrainedRun.read(mlp).network()
    for block, other, new in zip(network.blocks[:-1], trained.blocks, fresh.blocks):
        assert_same(block.body, other.body)
        assert_same(block.aux, new.aux)
    assert torch.equal(outputs(network), outputs(trained))


def test_a_head_for_another_number_of_classes_stays_new(mlp, tmp_path):
    write_image_folder(tmp_path, (1, 8, 8))
    images = ("data=image_folder", f"data.root={tmp_path}")
    network, fresh = built(*MLP, *images), built(*MLP, *images)
    kept = begin_with(network, mlp, 3)
    head = [
        f"blocks.2.aux.{name}" for name, value in network.blocks[2].aux.state_dict().items() if value.shape[:1] == (3,)
    ]
    assert len(head) == 2
    assert kept == ["blocks.0.aux", "blocks.1.aux", *head]
    trained = TrainedRun.read(mlp).network().state_dict()
    for name, value in network.state_dict().items():
        assert torch.equal(value, (fresh.state_dict() if name.startswith(tuple(kept)) else trained)[name]), name


def test_a_module_may_be_cut_elsewhere_and_adapters_are_merged(adapted):
    network = built(*TIMM, "model.blocks=2", "exact_blocks=2")
    assert begin_with(network, adapted, 10) == []
    trained = TrainedRun.read(adapted).network()
    layers = trained.module.state_dict()
    assert any(value.any() for name, value in layers.items() if ".lora_B." in name)
    torch.testing.assert_close(outputs(network), outputs(trained), rtol=1e-5, atol=1e-5)


def test_adapters_are_added_to_the_weights(adapted):
    network = built(*TIMM, "trained=lora", "lora.rank=3")
    assert begin_with(network, adapted, 10) == []  # auxiliary networks are of the same blocks
    trained = TrainedRun.read(adapted).network()
    torch.testing.assert_close(outputs(network), outputs(trained), rtol=1e-5, atol=1e-5)
    assert_same(network.blocks[0].aux, trained.blocks[0].aux)
    names = {name for name, parameter in network.named_parameters() if parameter.requires_grad and ".aux." not in name}
    assert names
    assert all(".lora_" in name or "fc" in name for name in names)


def test_of_another_network_nothing_is_taken(mlp):
    for overrides, words in (
        (
            ("model=mlp", "model.hidden=[8,9,8]"),
            r"blocks\.1\.body\S* is \(9, 8\) in the network, and \(8, 8\) in the che",
        ),
        (("model=mlp", "model.hidden=[8,8]"), r"blocks\.1\.aux\.weight is \(10, 8\) in the network, and missing"),
        (
            ("model=mlp", "model.hidden=[8,8,8,8]"),
            r"blocks\.\S+ is \S+ \S+ in the network, and missing in the checkpoint",
        ),
    ):
        network, fresh = built(*overrides), built(*overrides)
        with pytest.raises(ConfigError, match=words):
            begin_with(network, mlp, 10)
        assert_same(network, fresh)


def test_a_run_begins_with_them(mlp, tmp_path, capsys):
    begin = [*QUICK, *MLP, f"ckpt_path={mlp}", "optim.lr=1e-12", "optim.weight_decay=0"]
    result = train(load_config([*begin, "aux=mlp", "guess=exact"]), tmp_path / "run")
    assert f"Not from {mlp}, but new: blocks.0.aux, blocks.1.aux\n" in capsys.readouterr().out
    assert result["differences"]["ckpt_path"] == str(mlp)
    trained, there = TrainedRun.read(mlp).network(), TrainedRun.read(tmp_path / "run").network()
    torch.testing.assert_close(there.blocks[0].body.state_dict(), trained.blocks[0].body.state_dict())


def test_a_path_of_no_run_is_told(tmp_path):
    with pytest.raises(ConfigError, match=r"^ckpt_path=\S+/gone is not possible: it must be the folder of a run, with"):
        train(load_config([*QUICK, *MLP, f"ckpt_path={tmp_path / 'gone'}"]), tmp_path / "run")


def test_trained_weights_are_not_downloaded_to_be_replaced(adapted, monkeypatch):
    trained = TrainedRun.read(adapted)
    trained.cfg.model.pretrained = True
    monkeypatch.setattr("timm.models._builder.load_pretrained", lambda *_, **__: pytest.fail("downloaded"))
    assert trained.network().module is not None
    assert trained.cfg.model.pretrained is True
