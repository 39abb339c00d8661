"""Finite differences come to what forward mode gives as the square of their step, and leave all else as it was."""

from itertools import product

import pytest
import torch
from definition import Definition
from helpers import (
    GRANULARITIES,
    TARGETS,
    assert_all_close,
    assert_same_gradients,
    body_gradients,
    build,
    compose,
    estimator_of,
    gradients,
    snapshot,
)
from torch import nn

from fglight.config.settings import choices
from fglight.errors import ConfigError
from fglight.estimators import FiniteDifferences, GaussianGuess, GlobalTarget, GradientEstimator, WeightPerturbation
from fglight.models import Block
from fglight.runs import differences

OF_WEIGHTS = [granularity for granularity in GRANULARITIES["weight"] if granularity != "filter"]
REFUSED = {"exact": "has none", "frozen": "has none", "next_block": "needs the next block"}
GUESSES = [guess for guess in choices("guess") if guess not in REFUSED]
HALVED = 1e-3


def smooth_blocks():
    """Four blocks whose losses have derivatives of all orders, samples coupled: ``(blocks, (images, labels))``."""
    torch.manual_seed(0)
    bodies = [
        nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Tanh()),
        nn.Sequential(nn.Conv2d(4, 4, 3, 2), nn.GroupNorm(2, 4), nn.SiLU(), nn.Flatten()),
        nn.Sequential(nn.Linear(16, 6, bias=False), nn.LayerNorm(6), nn.Tanh()),
        nn.Linear(6, 6),
    ]
    auxes = [nn.Sequential(nn.Flatten(), nn.Linear(width, 3)) for width in (100, 16, 6, 6)]
    blocks = [Block(body, aux).double() for body, aux in zip(bodies, auxes)]
    return blocks, (torch.randn(8, 2, 5, 5, dtype=torch.float64), torch.arange(8) % 3)


def estimates(settings=None, *, blocks=smooth_blocks, **choices):
    """The blocks after a step, and its gradients."""
    blocks, batch = blocks()
    estimator = estimator_of(settings, **choices)
    torch.manual_seed(1)
    estimator.estimate(blocks, *batch)
    return blocks, gradients(blocks)


def distance(some, others):
    """The length of the difference of two estimates, relative to that of the second."""
    known = [name for name, g in others.items() if g is not None]
    some, others = (torch.cat([gradients[name].flatten() for name in known]) for gradients in (some, others))
    return (some - others).norm() / others.norm()


@pytest.mark.parametrize(
    ("guess", "granularity", "target"),
    [
        *product(GUESSES, OF_WEIGHTS, ["global"]),
        *product(["gaussian", "local"], OF_WEIGHTS, [target for target in TARGETS if target != "global"]),
    ],
)
def test_the_error_falls_by_four_as_the_step_halves(guess, granularity, target):
    chosen = {"guess": guess, "target": target}
    settings = {"perturb.granularity": granularity}
    exact = estimates(settings, engine="forward", **chosen)[1]
    errors = [
        distance(estimates(settings | {"engine.step": step}, engine="finite", **chosen)[1], exact)
        for step in (HALVED, HALVED / 2)
    ]
    assert errors[0] / errors[1] == pytest.approx(4, rel=0.02)
    assert errors[1] < 1e-3


@pytest.mark.parametrize("combine", ["mean", "span"])
@pytest.mark.parametrize("guess", ["gaussian", "ntk"])
@pytest.mark.parametrize("granularity", OF_WEIGHTS)
def test_several_directions(granularity, guess, combine):
    settings = {"perturb.granularity": granularity, "guess.directions": 3, "guess.combine": combine}
    exact = estimates(settings, engine="forward", guess=guess)[1]
    assert distance(estimates(settings, engine="finite", guess=guess)[1], exact) < 1e-5


@pytest.mark.parametrize("name", ["sign", "random_sign", "one"])
def test_coefficients(name):
    settings = {"perturb.coefficient": name}
    exact = estimates(settings, engine="forward")[1]
    assert_same_gradients(estimates(settings, engine="finite")[1], exact)


@pytest.mark.parametrize("granularity", OF_WEIGHTS)
@pytest.mark.parametrize("guess", ["local", "ntk", "gaussian", "dfa"])
def test_all_else_is_as_forward_mode_leaves_it(guess, granularity):
    """Weights to the last bit, statistics and generator, which move once a step, and what is trained exactly."""
    settings, found = {"perturb.granularity": granularity, "aux.hidden": 4}, []
    for engine in ("forward", "finite"):
        model, estimator, batch = build(settings, engine=engine, guess=guess)
        torch.manual_seed(1)
        step = estimator.estimate(model, *batch)
        found.append((snapshot(model), gradients(model), torch.get_rng_state(), step))
    (before, exact, state, expected), (after, estimate, state_after, step) = found
    assert torch.equal(state, state_after)
    for name, value in after.items():
        assert torch.equal(value, before[name]), name
    outside = {name: g for name, g in exact.items() if ".body." not in name or name.startswith("7.")}
    assert len(outside) > 7
    assert_same_gradients({name: estimate[name] for name in outside}, outside, 0)
    assert torch.equal(step.loss, expected.loss)
    assert [local and float(local.loss) for local in step.local] == [
        local and float(local.loss) for local in expected.local
    ]


@pytest.mark.parametrize("granularity", OF_WEIGHTS)
@pytest.mark.parametrize("directions", [1, 2])
def test_directions_drawn_again_are_the_same(granularity, directions):
    results = []
    for redraw in (False, True):
        settings = {"perturb.granularity": granularity, "engine.redraw": redraw, "guess.directions": directions}
        blocks, found = estimates({**settings, "engine.step": HALVED}, engine="finite", guess="gaussian")
        results.append((found, snapshot(nn.ModuleList(blocks)), torch.get_rng_state()))
    (kept, before, state), (redrawn, after, state_after) = results
    assert_same_gradients(redrawn, kept)
    for name, value in before.items():  # which have moved, and have come back but for rounding
        torch.testing.assert_close(after[name], value, rtol=0, atol=1e-12)
    assert torch.equal(state, state_after)


@pytest.mark.parametrize("engine", ["finite", "forward"])
@pytest.mark.parametrize("granularity", ["network", "tensor"])
def test_an_optimizer_may_take_each_gradient_as_it_comes(engine, granularity):
    """And none is held longer, where nothing depends on the weights any more."""
    settings = {"perturb.granularity": granularity} | ({"engine.redraw": True} if engine == "finite" else {})
    _, expected = estimates(settings, engine=engine, guess="gaussian")
    blocks, batch = smooth_blocks()
    found, there = {}, []
    named = {p: name for name, p in nn.ModuleList(blocks).named_parameters()}

    def take(parameter):
        there.append(sum(p.grad is not None for p in named))
        found[named[parameter]] = parameter.grad
        parameter.grad = None
        parameter.data.zero_()

    estimator = estimator_of(settings, engine=engine, guess="gaussian")
    for parameter in estimator.trained_parameters(blocks):
        parameter.register_post_accumulate_grad_hook(take)
    torch.manual_seed(1)
    estimator.estimate(blocks, *batch)
    assert set(there) == {1}
    assert_same_gradients({name: found.get(name) for name in expected}, expected, 0)


class Failing(nn.Module):
    """Fails when it runs for the second time."""

    def __init__(self):
        super().__init__()
        self.runs = 0

    def forward(self, x):
        self.runs += 1
        if self.runs == 2:
            raise ArithmeticError
        return x


@pytest.mark.parametrize("granularity", OF_WEIGHTS)
def test_a_pass_that_raises_leaves_weights_as_they_were(granularity):
    blocks, batch = smooth_blocks()
    blocks[1].body.append(Failing())
    network = nn.ModuleList(blocks)
    before = {name: (p, p.detach().clone()) for name, p in network.named_parameters()}
    buffers = dict(network.named_buffers())
    estimator = estimator_of({"perturb.granularity": granularity}, engine="finite", guess="gaussian")
    with pytest.raises(ArithmeticError):
        estimator.estimate(blocks, *batch)
    for name, p in network.named_parameters():
        assert p is before[name][0]
        assert torch.equal(p, before[name][1])
    assert all(buffer is buffers[name] for name, buffer in network.named_buffers())


@pytest.mark.parametrize("granularity", OF_WEIGHTS)
def test_both_passes_draw_the_same_random_numbers(granularity):
    """Otherwise a derivative would grow as the step falls."""

    def blocks():
        found, batch = smooth_blocks()
        found[0].body.append(nn.Dropout(0.5))
        found[2].body.append(nn.Dropout(0.2))
        found[3].aux.append(nn.Dropout(0.2))
        return found, batch

    some, others = (
        estimates(
            {"engine.step": step, "perturb.granularity": granularity}, blocks=blocks, engine="finite", guess="gaussian"
        )[1]
        for step in (1e-4, 1e-5)
    )
    assert distance(some, others) < 1e-4


def test_one_derivative_by_its_definition():
    """A gaussian direction of all weights, moved as a fraction of their length, by in-place arithmetic on a copy."""
    (blocks, batch), step, drawn = smooth_blocks(), 0.01, []
    guess = GaussianGuess()
    guess.sample = lambda like: drawn.append(torch.randn_like(like)) or drawn[-1]
    engine = FiniteDifferences(step)
    GradientEstimator(GlobalTarget(), guess, WeightPerturbation("network"), engine=engine).estimate(blocks, *batch)
    network = nn.Sequential(*(block.body for block in blocks), blocks[-1].aux)
    moved = [p for body in network[:3] for p in body.parameters()]
    length = sum(max(float(p.detach().square().sum()), len(p)) for p in moved) ** 0.5
    size = step * length / float(torch.cat([g.flatten() for g in drawn]).norm())
    losses = []
    with torch.no_grad():
        for factor in (size, -2 * size):
            for p, g in zip(moved, drawn):
                p += factor * g
            losses.append(nn.functional.cross_entropy(network(batch[0]), batch[1]))
    slope = (losses[0] - losses[1]) / (2 * size)
    expected = [[slope * drawn.pop(0) for _ in body.parameters()] for body in network[:3]]
    assert_all_close(body_gradients(blocks), expected, 1e-9)


@pytest.mark.parametrize("guess", ["local", "gaussian"])
def test_a_direction_of_length_zero_moves_nothing(guess):
    (blocks, batch), estimator = smooth_blocks(), estimator_of(guess=guess, engine="finite")
    in_space = estimator.guess.in_space
    estimator.guess.in_space = lambda *given, **how: [torch.zeros_like(g) for g in in_space(*given, **how)]
    estimator.estimate(blocks, *batch)
    assert all((g == 0).all() for part in body_gradients(blocks) for g in part)


def test_default_steps_in_single_precision_and_under_autocast():
    """Compared with the target's inner product with the direction, by plain autograd in double precision."""
    for dtype, autocast, least in ((torch.float32, False, 0.9999), (torch.float32, True, 0.9)):
        found, exact = [], []
        for seed in range(6):
            blocks, (images, labels) = smooth_blocks()
            definition, drawn = Definition(blocks, images, labels), []
            target = [t for j in range(3) for t in definition.weight("global", j)]
            guess = GaussianGuess()
            guess.sample = lambda like, drawn=drawn: drawn.append(torch.randn_like(like)) or drawn[-1]
            guess.coefficient = lambda product, square, found=found: found.append(float(product)) or product
            perturbation = WeightPerturbation("network")
            estimator = GradientEstimator(GlobalTarget(), guess, perturbation, engine=FiniteDifferences())
            torch.manual_seed(seed)
            with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
                estimator.estimate([block.to(dtype) for block in blocks], images.to(dtype), labels)
            exact.append(sum(float((t * g).sum()) for t, g in zip(target, drawn)))
        assert torch.cosine_similarity(torch.tensor(found), torch.tensor(exact), dim=0) > least


@pytest.mark.parametrize(("guess", "said"), REFUSED.items())
def test_guesses_without_a_direction_before_the_next_block_are_refused(guess, said):
    with pytest.raises(ConfigError, match=f"^engine=finite .*{said}.*: use "):
        estimator_of(engine="finite", guess=guess)


@pytest.mark.parametrize(
    ("settings", "perturb", "said"),
    [
        ({"perturb.granularity": "filter"}, "weight", r"perturb\.granularity=filter of WeightPert.*: use pert"),
        ({}, "activity", r"perturb\.granularity=sample of ActivityPerturbation .*: use perturb=weight with"),
        ({}, "activity_span", r"perturb\.granularity=sample of ActivitySpanPerturbation .*: use perturb=weigh"),
        ({}, "weight_per_sample", r"perturb\.granularity=tensor of WeightPerSamplePerturbation .*: use pertur"),
        (
            {"engine.redraw": True},
            "weight",
            r"engine\.redraw=true is not possible with LocalGuess, .*: use fa",
        ),
        ({"compile": True}, "weight", r"compile=true cannot go with engine=finite, .*: use compile=false"),
    ],
)
def test_what_is_not_possible_is_refused_in_one_line(settings, perturb, said):
    with pytest.raises(ConfigError, match=rf"^{said}"):
        estimator_of(settings, engine="finite", perturb=perturb)


def test_a_parameter_that_cannot_be_replaced_is_named():
    blocks, batch = smooth_blocks()
    kept = [blocks[2].body[0].weight]
    blocks[2].body.forward = lambda x: torch.tanh(x @ kept[0].T)
    estimator = estimator_of(engine="finite", guess="gaussian")
    with pytest.raises(ValueError, match=r"engine=finite cannot move 0\.weight of a Seq.*: use engine=reverse"):
        estimator.estimate(blocks, *batch)


def test_check_finds_every_layer_fast():
    blocks, batch = smooth_blocks()
    before = snapshot(nn.ModuleList(blocks))
    found = estimator_of(engine="finite", guess="local").check(blocks, batch[0])
    assert {check.path for check in found} == {"fast"}
    for name, value in snapshot(nn.ModuleList(blocks)).items():
        assert torch.equal(value, before[name])


def test_it_departs_from_the_paper():
    assert differences(compose(engine="finite")) == {
        "engine._target_": "fglight.estimators.FiniteDifferences",
        "engine.name": "finite",
        "engine.redraw": False,
    }
