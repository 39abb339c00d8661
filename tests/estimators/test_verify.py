"""``estimator.verify``: agrees where a step is right, and names the layer where it is not."""

from types import MethodType

import bodies
import pytest
import torch
from helpers import ALL_PERTURBATIONS, blocks_with_several, build, every_pair, snapshot, uncoupled_blocks
from token_bodies import dropout
from token_bodies import network as tokens
from torch import nn
from torch.autograd import Function

from fglight import estimators as e
from fglight.autodiff.layers.kinds import KINDS, LayerKind
from fglight.errors import BlockError
from fglight.estimators.spaces import per_sample
from fglight.models import Block, BlockNetwork

GUESSES = {
    "exact": e.ExactGuess,
    "frozen": e.FrozenGuess,
    "local": e.LocalGuess,
    "ntk": lambda: e.NTKGuess(2),
    "fixed_ntk": e.FixedNTKGuess,
    "guided": e.GuidedGuess,
    "gaussian": lambda: e.GaussianGuess(2, "span"),
    "rademacher": lambda: e.RademacherGuess(3, "max"),
    "low_rank": e.LowRankGuess,
    "dfa": e.DFAGuess,
    "drtp": e.DRTPGuess,
    "next_block": e.NextBlockGuess,
    "mixing": lambda: e.MixingGuess(2),
    "momentum": e.MomentumGuess,
}
SPACES = {
    "activity": e.ActivityPerturbation,
    "weight": e.WeightPerturbation,
    "weight_per_sample": e.WeightPerSamplePerturbation,
    "activity_span": e.ActivitySpanPerturbation,
}
WAYS = [
    *((perturb, granularity, None) for perturb, granularity in ALL_PERTURBATIONS),
    *(("weight", "filter", name) for name in ("sign", "shuffled", "stale:2", "recorded")),
    *(("activity", "sample", name) for name in ("random_sign", "norm", "positive")),
]
TARGETS = (e.GlobalTarget, e.LocalTarget, e.IntermediateTarget, e.DeepSupervision)


def batch(*shape):
    return torch.randn(5, *shape), torch.arange(5) % 3


def network(*made):
    torch.manual_seed(0)
    return BlockNetwork(Block(body, nn.Linear(bodies.WIDTH, 3)) for body in (*made, nn.Tanh()))


def verified(estimator, model, given):
    """For each engine, ``agrees``, ``refused``, or which parameters differ."""
    found = estimator.verify(model, *given)
    assert [one.engine for one in found.engines if one.own] == [estimator.engine.name]
    return {
        one.engine.removeprefix("engine="): "refused"
        if one.refused
        else [(x.block, x.layer, x.kind, x.parameter) for x in one.wrong] or "agrees"
        for one in found.engines
    }


@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")
@every_pair(make=[*bodies.ORDINARY, *bodies.UNLIKE], guess=GUESSES, way=WAYS, target=TARGETS)
def test_engines_agree_or_refuse(make, guess, way, target):
    perturb, granularity, coefficient = way
    try:
        estimator = e.GradientEstimator(target(), GUESSES[guess](), SPACES[perturb](granularity, coefficient))
    except ValueError:
        pytest.skip("the estimator refuses it")
    model, given = network(make(), make()), batch(bodies.WIDTH)
    before, drawn = snapshot(model), torch.get_rng_state()
    found = verified(estimator, model, given)
    assert found["reverse"] == "agrees" or (make.__name__.startswith("energy") and guess == "frozen")
    assert set(found.values()) <= {"agrees", "refused"}
    if make in bodies.ORDINARY and perturb == "weight" and guess == "local" and target is not e.DeepSupervision:
        assert found["forward"] == "agrees"
        assert found["finite"] == ("agrees" if granularity != "filter" else "refused")
    assert torch.equal(drawn, torch.get_rng_state())
    assert all(torch.equal(value, before[name]) for name, value in snapshot(model).items() if name in before)
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("engine", [e.ReverseMode, e.ForwardMode, e.FiniteDifferences])
@pytest.mark.parametrize("combine", ["sum", "mean", "span", "max"])
def test_with_several_auxiliaries(combine, engine):
    blocks, given = blocks_with_several()
    guess = e.LocalGuess(combine=combine)
    estimator = e.GradientEstimator(e.LocalTarget(), guess, e.WeightPerturbation("block"), engine=engine())
    assert set(verified(estimator, blocks, given).values()) == {"agrees"}


@pytest.mark.parametrize("guess", ["gaussian", "low_rank", "guided", "local"])
def test_layers_that_take_some_samples_at_a_time(guess, monkeypatch):
    monkeypatch.setattr(per_sample, "CHUNK", 40)
    blocks, given = uncoupled_blocks()
    estimator = e.GradientEstimator(e.GlobalTarget(), GUESSES[guess](), e.WeightPerSamplePerturbation())
    assert verified(estimator, blocks, given) == {"reverse": "agrees", "forward": "agrees", "finite": "refused"}


@pytest.mark.parametrize(("perturb", "guess"), [("activity", "gaussian"), ("weight", "local")])
def test_batch_norm_couples_samples_in_both_meanings(perturb, guess):
    model, estimator, given = build(perturb=perturb, guess=guess, target="intermediate")
    found = verified(estimator, model, given)
    assert found["reverse"] == found["forward"] == "agrees"


@pytest.mark.parametrize("guess", ["gaussian", "local", "ntk"])
def test_of_coupled_samples_a_layers_outputs_have_shares(guess):
    model, estimator, given = build(perturb="weight_per_sample", guess=guess)
    found = estimator.verify(model, *given)
    assert found.agrees
    assert [bool(one.refused) for one in found.engines] == [False, False, True]
    assert "samples are coupled in block 0, 1, BatchNorm2d\n" in str(found)
    assert not estimator.verify(model.eval(), *given).coupled


class Centred(nn.Module):
    """What couples samples without being a normalisation layer."""

    def forward(self, x):
        return x - x.mean(0)


@pytest.mark.parametrize("perturb", ["activity", "weight_per_sample", "activity_span", "weight"])
def test_a_module_that_couples_samples_is_named(perturb):
    layers = [bodies.linear(), nn.Tanh(), Centred(), bodies.linear(), Centred()]
    model = network(bodies.plain(), nn.Sequential(*layers[:2], nn.Sequential(*layers[2:])))
    estimator = e.GradientEstimator(e.GlobalTarget(), e.LocalGuess(), SPACES[perturb]())
    found = estimator.verify(model, *batch(bodies.WIDTH))
    assert found.agrees
    assert [*found.coupled] == (["block 1, 2.0, Centred"] if perturb != "weight" else [])


@pytest.mark.parametrize("guess", ["gaussian", "local", "ntk"])
def test_with_dropout_the_same_units_are_left_out(guess):
    blocks, *given = tokens(dropout)
    estimator = e.GradientEstimator(e.GlobalTarget(), GUESSES[guess](), e.WeightPerturbation())
    assert verified(estimator, blocks, given) == {"reverse": "agrees", "forward": "refused", "finite": "agrees"}
    blocks[0].aux.append(nn.Dropout(0.5))
    if guess != "gaussian":  # which uses none
        with pytest.raises(BlockError, match=r"draw no random numbers, and that of block 0, a Sequential, does"):
            estimator.verify(blocks, *given)


def test_token_indices_and_a_compiled_estimator():
    body = nn.Sequential(nn.Embedding(9, bodies.WIDTH, padding_idx=0), nn.Flatten(), nn.Linear(3 * bodies.WIDTH, 4))
    estimator = e.GradientEstimator(e.GlobalTarget(), e.GaussianGuess(), e.WeightPerSamplePerturbation())
    estimator.compile()
    given = torch.randint(9, (5, 3)), torch.arange(5) % 3
    assert verified(estimator, network(body, bodies.plain()), given)["reverse"] == "agrees"


class Norm(nn.RMSNorm):
    """A layer that nobody knows."""


class Scaled(LayerKind):
    """A formula that is wrong: the scale's gradient is twice what it is."""

    def gradients(self, call, name, cotangents):
        x = nn.functional.rms_norm(call.input, call.layer.normalized_shape)
        return [2 * x * cotangent for cotangent in cotangents]


def test_a_wrong_formula_is_named_and_nothing_else(monkeypatch):
    model = network(bodies.plain(), nn.Sequential(bodies.linear(), Norm(bodies.WIDTH)), bodies.plain())
    estimator = e.GradientEstimator(e.GlobalTarget(), e.LocalGuess(), e.WeightPerSamplePerturbation())
    given = batch(bodies.WIDTH)
    assert verified(estimator, model, given)["reverse"] == "agrees"
    monkeypatch.setitem(KINDS, Norm, None)
    Scaled(Norm)
    wrong = [(1, "1", "Norm", "weight")]
    assert verified(estimator, model, given) == {"reverse": wrong, "forward": wrong, "finite": "refused"}
    told = [str(one) for one in estimator.verify(model, *given).engines]
    assert "differs in 1 of 15 tensors:\n    block 1, 1, Norm: weight is off by 1.0e+00 of its largest" in told[0]


class Wrong(Function):
    """A forward-mode derivative that is not the gradient."""

    @staticmethod
    def forward(x):
        return x.tanh()

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(output)
        ctx.save_for_forward(output)

    @staticmethod
    def backward(ctx, gradient):
        return gradient * (1 - ctx.saved_tensors[0] ** 2)

    @staticmethod
    def jvp(ctx, tangent):
        return 2 * tangent * (1 - ctx.saved_tensors[0] ** 2)


def test_a_wrong_tangent_is_refused_with_its_block_or_named(monkeypatch):
    layer = bodies.linear()
    layer.forward = MethodType(lambda self, x: Wrong.apply(nn.Linear.forward(self, x)), layer)
    model = network(bodies.plain(), nn.Sequential(layer))
    estimator = e.GradientEstimator(e.GlobalTarget(), e.LocalGuess(), e.WeightPerturbation())
    _, told, _ = estimator.verify(model, *batch(bodies.WIDTH)).engines
    assert "the body of block 1, a Sequential, which has a forward-mode derivative that is not" in str(told)
    monkeypatch.setattr(e.ForwardMode, "compare", staticmethod(lambda *_: ""))
    found = verified(estimator, model, batch(bodies.WIDTH))
    assert found["reverse"] == "agrees"
    assert {block for block, *_ in found["forward"]} == {0, 1}  # the tangents of block 0 go through block 1


class Halved(e.ReverseMode):
    """Half of the products."""

    name = "engine=halved"

    def products(self, network, guess, space, *, cosine):
        for parts, products, squares in super().products(network, guess, space, cosine=cosine):
            yield parts, [product / 2 for product in products], squares


def test_an_engine_of_ones_own_comes_last():
    blocks, given = uncoupled_blocks()
    estimator = e.GradientEstimator(e.GlobalTarget(), e.LocalGuess(), e.WeightPerturbation(), engine=Halved())
    *others, (name, wrong) = verified(estimator, blocks, given).items()
    assert {found for _, found in others} == {"agrees"}
    assert name == "halved"
    assert {block for block, *_ in wrong} == {0, 1, 3}  # block 2 has no parameters, and the last is exact
