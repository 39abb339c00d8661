"""Networks of transformers', from small configurations."""

import pytest
import torch
from text_files import POSITIONS, VOCABULARY, write_network
from torch import nn
from transformers import AutoConfig, AutoModelForSequenceClassification

from fglight.hub import quiet
from fglight.models import PooledAuxiliary
from fglight.models.transformers import transformers_network


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("networks")
    return {kind: str(write_network(folder / kind, kind)) for kind in ("bert", "gpt2")}


@pytest.fixture(scope="module")
def trained(folders, tmp_path_factory):
    """A network of two classes with its weights, in a folder without a tokenizer."""
    folder = tmp_path_factory.mktemp("trained")
    with quiet():
        network = AutoModelForSequenceClassification.from_config(AutoConfig.from_pretrained(folders["bert"]))
        network.save_pretrained(folder)
    return str(folder), network.eval()


def texts(length=8):
    """Ids and masks of three texts of unlike lengths, with padding that no network knows."""
    torch.manual_seed(0)
    ids = torch.randint(1, len(VOCABULARY), (3, length))
    mask = torch.ones_like(ids)
    mask[1, 3:] = 0
    return torch.stack([ids * mask, mask], 1)


def made(path, length=8, classes=3, **settings):
    def auxiliary(channels):
        return PooledAuxiliary(torch.empty(1, 1, channels), classes)

    return transformers_network(
        auxiliary, classes, texts(length), path, **{"pretrained": False, "blocks": 3, **settings}
    )


@pytest.mark.parametrize("kind", ["bert", "gpt2"])
def test_what_is_padding_does_not_matter(kind, folders):
    model = made(folders[kind]).eval()
    assert len(model.blocks) == 3
    assert model.training is False
    batch = texts()
    expected = model(batch)
    alone = model(batch[1:2, :, :3])
    torch.testing.assert_close(expected[1:2], alone, rtol=0, atol=1e-6)
    batch[1, 0, 3:] = 5
    assert torch.equal(model(batch), expected)


@pytest.mark.parametrize("kind", ["bert", "gpt2"])
def test_dropout_is_off_unless_it_is_wanted(kind, folders):
    still, moving, own = (
        made(folders[kind]),
        made(folders[kind], dropout=True),
        made(folders[kind], arguments={{"bert": "hidden_dropout_prob", "gpt2": "resid_pdrop"}[kind]: 0.5}),
    )
    batch = texts()
    assert still.training
    assert torch.equal(still(batch), still(batch))
    for model in (moving, own):
        assert not torch.equal(model(batch), model(batch))


def test_trained_weights_are_those_of_the_folder(trained, capfd):
    path, network = trained
    model = made(path, classes=2, pretrained=True)
    assert model.training
    assert all(module.training for module in model.modules())
    ids, mask = texts().unbind(1)
    with torch.no_grad():
        torch.testing.assert_close(model.eval()(texts()), network(ids, attention_mask=mask).logits, rtol=0, atol=1e-6)
    anew = made(path, classes=5, pretrained=True)
    assert anew(texts()).shape == (3, 5)
    body = dict(anew.blocks[0].body.named_parameters())
    theirs = dict(network.named_parameters())
    assert all(any(torch.equal(p, other) for other in theirs.values()) for p in body.values())
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"arguments": {"layers": 2}}, r"model\.arguments\.layers is no setting of a BertConfig, that of model\.path="),
        ({"arguments": {"num_attention_heads": 3}}, r"model\.path=.* is not possible with model\.arguments=\{'num_att"),
        ({"length": POSITIONS + 1}, rf"data\.length={POSITIONS + 1} is not possible with model\.path="),
        (
            {"cuts": ["encoder"]},
            r"blocks must begin with submodules of the network, such as bert, .* got encoder",
        ),
        (
            {"pretrained": True},
            r"model\.path must be a folder of transformers', or .* got .*no file named model\.safetens",
        ),
        ({"path": None}, r"model\.path must be a folder of transformers', or the name .* got None"),
        ({"path": "./gone"}, r"model\.path must be a folder of transformers', or the name .* got \./gone"),
    ],
)
def test_what_is_not_possible_is_told_in_one_line(settings, said, folders):
    with pytest.raises(ValueError, match=f"^{said}") as refused:
        made(**{"path": folders["bert"], **settings})
    assert "\n" not in str(refused.value)


def test_weights_of_another_shape_are_told(trained):
    with pytest.raises(ValueError, match=r"^model\.arguments=.*16.* is not possible with the weights .* another shape"):
        made(trained[0], pretrained=True, arguments={"hidden_size": 16})


def test_images_are_told():
    with pytest.raises(ValueError, match=r"^model=transformers takes token ids, which data=text gives"):
        transformers_network(nn.Identity, 2, torch.zeros(2, 1, 8, 8), "any")
