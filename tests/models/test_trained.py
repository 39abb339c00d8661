"""What of a network is trained beside its head, and that all else stays."""

import pytest
import torch
from helpers import assert_same_gradients, build, estimator_of, every_pair, gradients, module_of, snapshot
from torch import nn

from fglight.build import build_model
from fglight.config import compose
from fglight.errors import ConfigError
from fglight.models import split
from fglight.models.trained import choose_trained

TRAINED = ("head", "bias", "norm", "lora")


class Attention(nn.Module):
    """Tokens, with a normalisation of its own making."""

    def __init__(self):
        super().__init__()
        self.q, self.v = nn.Linear(6, 6), nn.Linear(6, 6)
        self.k = nn.Linear(6, 6, bias=False)  # a bias would have no gradient but rounding
        self.scale = nn.Parameter(torch.ones(6))
        self.norm = nn.LayerNorm(6)

    def forward(self, x):
        mixed = (self.q(x) @ self.k(x).mT / 6**0.5).softmax(-1) @ self.v(x)
        return self.norm(x + self.scale * mixed)


class Tokens(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Linear(4, 6)
        self.layers = nn.ModuleList([Attention() for _ in range(3)])
        self.head = nn.Linear(6, 3)

    def forward(self, x):
        x = self.embed(x)
        for layer in self.layers:
            x = layer(x)
        return self.head(x.mean(1))


def tokens(trained):
    torch.manual_seed(0)
    network = Tokens().double()
    choose_trained(network, trained, 2)
    for name, parameter in network.named_parameters():
        if "lora_B" in name:  # which begins at 0, so that no gradient reaches lora_A
            nn.init.normal_(parameter)
    example = torch.randn(4, 5, 4, dtype=torch.float64)
    return split(network, ["layers.1", "layers.2"], example), (example, torch.tensor([0, 1, 2, 0]))


EXPECTED = {
    "head": lambda name: name.startswith("head."),
    "bias": lambda name: name.startswith("head.") or name.endswith(".bias"),
    "norm": lambda name: name.startswith("head.") or ".norm." in name,
    "lora": lambda name: name.startswith("head.") or ".lora_" in name,
}


@pytest.mark.parametrize("trained", TRAINED)
def test_which_parameters(trained):
    network = Tokens()
    choose_trained(network, trained, 2)
    named = dict(network.named_parameters())
    assert {name for name, p in named.items() if p.requires_grad} == set(filter(EXPECTED[trained], named))
    if trained == "lora":  # of every linear layer but the head, of rank 2
        ranks = [p.shape[0] for name, p in named.items() if "lora_A" in name]
        assert ranks == [2] * 10


@every_pair(trained=TRAINED, guess=["local", "gaussian"], perturb=["weight", "weight_per_sample"])
def test_engines_agree_on_what_is_trained(trained, guess, perturb):
    found = []
    for engine in ("reverse", "forward"):
        blocks, batch = tokens(trained)
        before = snapshot(blocks)
        torch.manual_seed(1)
        estimator_of(guess=guess, perturb=perturb, engine=engine).estimate(blocks, *batch)
        found.append(gradients(blocks))
        assert all(torch.equal(value, before[name]) for name, value in snapshot(blocks).items())
    assert_same_gradients(found[1], found[0])


def test_a_low_rank_adapter_changes_nothing_at_first_and_is_backpropagated_as_autograd_does():
    torch.manual_seed(0)
    network = Tokens().double()
    x, labels = torch.randn(4, 5, 4, dtype=torch.float64), torch.tensor([0, 1, 2, 0])
    plain = network(x)
    choose_trained(network, "lora", 2)
    assert torch.allclose(network(x), plain, rtol=1e-12)
    blocks = split(network, ["layers.1"], x)
    estimator_of(guess="exact").estimate(blocks, x, labels)
    trained = {name: p for name, p in network.named_parameters() if p.requires_grad}
    expected = torch.autograd.grad(nn.functional.cross_entropy(network(x), labels), trained.values())
    for (name, p), gradient in zip(trained.items(), expected):
        assert torch.allclose(p.grad, gradient, rtol=1e-9, atol=1e-12), name


@pytest.mark.parametrize("guess", ["gaussian", "exact"])
@pytest.mark.parametrize("trained", TRAINED)
def test_of_the_papers_network_auxiliaries_are_trained_all_the_same(trained, guess):
    model, estimator, batch = build({"trained": trained}, guess=guess, target="local")
    estimator.estimate(model, *batch)
    for block in model.blocks:
        assert all(p.grad is not None for p in block.aux.parameters())
    body = [name for name, p in model.blocks[0].body.named_parameters() if p.grad is not None]
    assert bool(body) == (trained != "head")


def test_blocks_that_are_not_trained_take_a_forward_pass_and_nothing_else():
    """Nothing below the first trained block has a graph."""
    blocks, batch = tokens("all")
    for block in blocks.blocks[:2]:
        block.body.requires_grad_(False)
    seen = []
    for j, block in enumerate(blocks.blocks):
        block.body.register_forward_hook(lambda body, x, output, j=j: seen.append((j, output.requires_grad)))
    for guess in ("local", "exact", "gaussian"):
        seen.clear()
        estimator_of(guess=guess, perturb="weight").estimate(blocks, *batch)
        assert seen == [(0, False), (1, False), (2, True)]


def test_what_cannot_be_trained_is_told():
    with pytest.raises(ValueError, match="trained=norm needs a normalisation layer below the head, and Sequential has"):
        choose_trained(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)), "norm")
    with pytest.raises(ConfigError, match="trained must be all, head, bias, norm or lora, got heads"):
        compose(["trained=heads"])
    with pytest.raises(ConfigError, match=r"lora\.rank must be a whole number from 1 on, got 0"):
        compose(["trained=lora", "lora.rank=0"])


def test_a_timm_network_is_adapted_before_it_is_cut():
    pytest.importorskip("timm")
    vit = ["model=timm", "model.network=test_vit", "model.blocks=2", "data.image_size=32"]
    network = build_model(compose([*vit, "trained=lora"]))
    trained = [name for name, p in network.blocks[0].body.named_parameters() if p.requires_grad]
    assert trained
    assert all(".lora_" in name for name in trained)


def test_vectors_may_be_left_without_weight_decay():
    model, estimator, _ = build(guess="gaussian")
    module = module_of(model, estimator, weight_decay=0.1, block_lr=1.0, decay_vectors=False)
    optimizer = module.configure_optimizers()["optimizer"]
    decays = {p: group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    rates = {p: group["lr"] for group in optimizer.param_groups for p in group["params"]}
    trained = estimator.trained_parameters(model)
    assert len(decays) == len(trained) == sum(len(group["params"]) for group in optimizer.param_groups)
    blocks = {p for block in model.blocks[:-1] for p in block.body.parameters()}
    assert all(decays[p] == (0.1 if p.dim() > 1 else 0) and (rates[p] == 1) == (p in blocks) for p in trained)
