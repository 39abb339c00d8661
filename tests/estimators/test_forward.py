"""Forward mode gives what reverse mode gives, and where batch norm couples samples, the same sum over the batch."""

from copy import deepcopy

import pytest
import torch
from helpers import (
    ALL_PERTURBATIONS,
    GRANULARITIES,
    TARGETS,
    assert_close,
    assert_same_gradients,
    build,
    compose,
    estimator_of,
    every_pair,
    gradients,
    snapshot,
    tapped_blocks,
)
from torch import nn

from fglight.errors import ConfigError
from fglight.estimators import (
    FiniteDifferences,
    ForwardMode,
    GlobalTarget,
    GradientEstimator,
    LocalGuess,
    ReverseMode,
    WeightPerturbation,
)
from fglight.models import Block, BlockNetwork

OF_WEIGHTS = GRANULARITIES["weight"]
BY_SAMPLE = [case for case in ALL_PERTURBATIONS if case[0] != "weight"]


def both(settings=None, *, uncoupled=False, **choices):
    """Gradients and steps of the two engines, from the same random numbers: ``(reverse, forward, steps, models)``.

    Of a few small blocks, or of the ``model`` that is chosen.
    """
    results, steps, models = [], [], []
    for engine in ("reverse", "forward"):
        if "model" in choices:
            model, estimator, batch = build({"aux.hidden": 4, **(settings or {})}, engine=engine, **choices)
        else:
            blocks, batch = tapped_blocks()
            model, estimator = BlockNetwork(blocks), estimator_of(settings, engine=engine, **choices)
        if uncoupled:
            for block in model.blocks:
                block.body.eval()
        torch.manual_seed(1)
        steps.append(estimator.estimate(model, *batch))
        results.append(gradients(model))
        models.append(model)
    return *results, steps, models


@every_pair(target=TARGETS, guess=["local", "ntk", "gaussian"], granularity=OF_WEIGHTS)
def test_weight_estimates_are_those_of_reverse_mode(target, guess, granularity):
    assert_same_weight_estimates(target=target, guess=guess, granularity=granularity)


@pytest.mark.parametrize(
    ("model", "granularity", "guess", "target"),
    [
        ("resnet18_16", "tensor", "local", "global"),
        ("resnet18_8", "network", "gaussian", "intermediate"),
        ("resnet18_8", "block", "ntk", "global"),
    ],
)
def test_so_are_those_of_the_papers_networks(model, granularity, guess, target):
    assert_same_weight_estimates(model=model, granularity=granularity, guess=guess, target=target)


def assert_same_weight_estimates(granularity, **choices):
    reverse, forward, steps, models = both({"perturb.granularity": granularity}, **choices)
    assert_same_gradients(forward, reverse, 1e-8)
    assert_close(steps[1].loss, steps[0].loss)
    assert_close(steps[1].logits, steps[0].logits)
    for here, there in zip(steps[1].local, steps[0].local):
        assert (here is None) == (there is None)
        if here is not None:
            assert_close(here.loss, there.loss)
    for name, value in snapshot(models[1]).items():
        assert torch.equal(value, snapshot(models[0])[name]), name


@pytest.mark.parametrize("combine", ["mean", "span"])
@pytest.mark.parametrize("granularity", OF_WEIGHTS)
@pytest.mark.parametrize("guess", ["gaussian", "ntk"])
def test_several_directions_of_weights(guess, granularity, combine):
    settings = {"perturb.granularity": granularity, "guess.directions": 3, "guess.combine": combine}
    reverse, forward, *_ = both(settings, guess=guess)
    assert_same_gradients(forward, reverse, 1e-7)


@every_pair(target=TARGETS, guess=["local", "gaussian"], way=BY_SAMPLE)
def test_without_coupling_of_samples_their_coefficients_are_the_same(target, guess, way):
    """Batch norm with its running statistics is a layer like any other."""
    perturb, granularity = way
    settings = {"perturb.granularity": granularity}
    reverse, forward, *_ = both(settings, target=target, guess=guess, perturb=perturb, uncoupled=True)
    assert_same_gradients(forward, reverse, 1e-8)


@pytest.mark.parametrize("granularity", ["sample", "channel"])
@pytest.mark.parametrize("combine", ["mean", "span"])
@pytest.mark.parametrize("guess", ["gaussian", "ntk"])
def test_several_directions_of_activities(guess, combine, granularity):
    settings = {"guess.directions": 3, "guess.combine": combine, "perturb.granularity": granularity}
    reverse, forward, *_ = both(settings, guess=guess, perturb="activity", uncoupled=True)
    assert_same_gradients(forward, reverse, 1e-7)


@pytest.mark.parametrize("perturb", ["activity", "activity_span"])
def test_with_a_local_target_nothing_lies_between_guess_and_loss(perturb):
    """The block's own batch norm lies before its output, and so activity coefficients agree."""
    reverse, forward, *_ = both(model="resnet18_8", target="local", guess="gaussian", perturb=perturb)
    assert_same_gradients(forward, reverse)


@pytest.mark.parametrize("perturb", ["activity", "weight_per_sample"])
@pytest.mark.parametrize("target", ["global", "intermediate"])
def test_batch_norm_changes_coefficients_of_samples_but_not_their_sum(target, perturb, monkeypatch):
    """The sum over samples of <t_i, g_i> is one directional derivative, however it is split."""
    coefficients = {}
    for engine in ("reverse", "forward"):
        model, estimator, batch = build(target=target, guess="gaussian", perturb=perturb, engine=engine)
        seen = coefficients[engine] = []
        estimator.guess.coefficient = lambda product, square, seen=seen: seen.append(product.flatten()) or product
        torch.manual_seed(1)
        estimator.estimate(model, *batch)
    differ = 0
    assert len(coefficients["forward"]) == len(coefficients["reverse"])
    by_sum = (sorted(seen, key=torch.sum) for seen in coefficients.values())  # engines differ in the order of blocks
    for reverse, forward in zip(*by_sum):
        assert_close(forward.sum(), reverse.sum(), 1e-8)
        differ += not torch.allclose(forward, reverse)
    assert differ > 0


@pytest.mark.parametrize(
    ("guess", "perturb"), [("local", "activity"), ("ntk", "weight"), ("gaussian", "weight_per_sample")]
)
def test_running_statistics_and_generator_move_once_a_step(guess, perturb):
    moved, states = [], []
    for engine in ("reverse", "forward"):
        model, estimator, batch = build(guess=guess, perturb=perturb, engine=engine)
        torch.manual_seed(1)
        estimator.estimate(model, *batch)
        moved.append({name: value for name, value in snapshot(model).items() if "running" in name or "num_" in name})
        states.append(torch.get_rng_state())
    for name, value in moved[0].items():
        assert_close(moved[1][name].double(), value.double(), name=name)
    assert torch.equal(*states)


@pytest.mark.parametrize("perturb", ["activity", "weight", "weight_per_sample"])
@pytest.mark.parametrize("guess", ["local", "gaussian"])
def test_bodies_with_and_without_parameters_frozen_or_not(guess, perturb):
    torch.manual_seed(0)
    bodies = [
        nn.Flatten(),
        nn.Sequential(nn.Linear(12, 8), nn.Tanh()),
        nn.Tanh(),
        nn.Sequential(nn.Linear(8, 6), nn.LayerNorm(6), nn.Linear(6, 6)),
        nn.Linear(6, 4),
    ]
    blocks = [Block(body, nn.Linear(width, 4)).double() for body, width in zip(bodies, (12, 8, 8, 6, 4))]
    blocks[3].body[0].bias.requires_grad_(False)
    batch = torch.randn(5, 3, 4, dtype=torch.float64), torch.randint(4, (5,))
    results = []
    for engine in ("reverse", "forward"):
        copies = deepcopy(blocks)
        torch.manual_seed(1)
        estimator_of(guess=guess, perturb=perturb, engine=engine).estimate(copies, *batch)
        results.append(gradients(copies))
    assert_same_gradients(results[1], results[0])


@pytest.mark.parametrize("granularity", OF_WEIGHTS)
def test_bodies_without_parameters_leave_the_last_block_alone_to_train(granularity):
    blocks = [Block(nn.Tanh(), nn.Linear(3, 2)), Block(nn.Tanh(), nn.Linear(3, 2)), Block(nn.Tanh(), nn.Linear(3, 2))]
    estimator = estimator_of({"perturb.granularity": granularity}, guess="gaussian", engine="forward")
    estimator.estimate(blocks, torch.randn(4, 3), torch.randint(2, (4,)))
    assert [p.grad is not None for block in blocks for p in block.parameters()] == [False] * 4 + [True] * 2


def test_an_exact_guess_is_refused():
    with pytest.raises(ConfigError, match="ExactGuess has none"):
        estimator_of(engine="forward", guess="exact")


def test_a_body_with_dropout_is_refused():
    blocks = [
        Block(nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.5)), nn.Linear(3, 2)),
        Block(nn.Linear(3, 3), nn.Linear(3, 2)),
    ]
    estimator = estimator_of(guess="gaussian", engine="forward")
    batch = torch.randn(4, 3), torch.randint(2, (4,))
    with pytest.raises(ValueError, match="Dropout"):
        estimator.estimate(blocks, *batch)
    blocks[0].body.eval()
    estimator.estimate(blocks, *batch)


def test_the_configuration_chooses_the_engine():
    assert type(estimator_of(engine="forward").engine) is ForwardMode
    assert compose(engine="forward").engine.name == "forward"


@pytest.mark.parametrize(("perturb", "granularity"), ALL_PERTURBATIONS)
def test_autocast(perturb, granularity):
    """One and several tangents through normalisation in bfloat16 give about what double precision gives."""
    results = []
    for autocast in (False, True):
        dtype = torch.float32 if autocast else torch.float64
        settings = {"perturb.granularity": granularity}
        model, estimator, (images, labels) = build(settings, perturb=perturb, engine="forward", batch=16, size=16)
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            estimator.estimate(model.to(dtype), images.to(dtype), labels)
        results.append(torch.cat([gradient.double().flatten() for gradient in gradients(model).values()]))
    assert torch.cosine_similarity(*results, dim=0) > 0.9


@pytest.mark.parametrize("norm", [nn.LayerNorm(8), nn.GroupNorm(2, 8), nn.BatchNorm1d(8)])
def test_autocast_between_normalisation_and_a_linear_layer(norm):
    results = []
    for engine in (ReverseMode(), ForwardMode()):
        torch.manual_seed(0)
        bodies = [nn.Linear(8, 8), nn.Sequential(nn.Linear(8, 8), deepcopy(norm), nn.Linear(8, 8)), nn.Identity()]
        blocks = [Block(body, nn.Linear(8, 3)) for body in bodies]
        estimator = GradientEstimator(GlobalTarget(), LocalGuess(), WeightPerturbation(), engine=engine)
        with torch.autocast("cpu", torch.bfloat16):
            estimator.estimate(blocks, torch.randn(6, 8), torch.arange(6) % 3)
        results.append(torch.cat([p.grad.flatten() for block in blocks for p in block.body.parameters()]))
    assert torch.cosine_similarity(*results, dim=0) > 0.99


@pytest.mark.parametrize("granularity", OF_WEIGHTS)
@pytest.mark.parametrize("engine", [ForwardMode, FiniteDifferences])
def test_a_first_block_without_parameters_lets_the_others_move(engine, granularity):
    if engine is FiniteDifferences and granularity == "filter":
        pytest.skip("takes a coefficient of a tensor or more")
    torch.manual_seed(0)
    bodies = [nn.Tanh(), nn.Linear(4, 4), nn.Sequential(nn.Linear(4, 4), nn.Tanh()), nn.Linear(4, 4)]
    blocks = [Block(body, nn.Linear(4, 3)).double() for body in bodies]
    batch = torch.randn(5, 4, dtype=torch.float64), torch.randint(3, (5,))
    found = []
    for each in (ReverseMode(), engine()):
        GradientEstimator(GlobalTarget(), LocalGuess(), WeightPerturbation(granularity), engine=each).estimate(
            blocks, *batch
        )
        found.append(gradients(blocks))
    assert_same_gradients(found[1], found[0], 1e-6)
