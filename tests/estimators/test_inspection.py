"""What differs from autograd is computed right, or refused by the engines that cannot."""

import random
import warnings
from itertools import cycle

import numpy as np
import pytest
import torch
from bodies import WIDTH as SIZE
from bodies import (
    Body,
    backward_hook,
    detached_norm,
    energy,
    forward_hook,
    gradient_as_a_constant,
    hook_on_a_tensor,
    hook_on_an_operation,
    linear,
    logged_number,
    number_from_a_tensor,
    other_forward,
    other_weights,
    shared,
    sorted_samples,
    straight_through,
)
from definition import Definition
from helpers import assert_all_close, assert_close, body_gradients
from torch import nn

from fglight.errors import BlockError
from fglight.estimators import (
    ActivityPerturbation,
    FiniteDifferences,
    ForwardMode,
    GaussianGuess,
    GlobalTarget,
    GradientEstimator,
    LocalGuess,
    MomentumGuess,
    ReverseMode,
    WeightPerSamplePerturbation,
    WeightPerturbation,
)
from fglight.models import Block

CLASSES = 3
ENGINES = {ReverseMode: 1e-9, ForwardMode: 1e-9, FiniteDifferences: 1e-4}
"""With how close each comes to the definition."""


def network(make, seed=0):
    """Two blocks of the same kind and a last one: ``(blocks, (inputs, labels))``."""
    torch.manual_seed(seed)
    bodies = [make(), make(), nn.Tanh()]
    blocks = [Block(body, nn.Linear(SIZE, CLASSES)).double() for body in bodies]
    return blocks, (torch.randn(5, SIZE, dtype=torch.float64), torch.arange(5) % CLASSES)


def estimate(blocks, batch, guess=LocalGuess, perturbation=WeightPerturbation, engine=ReverseMode):
    estimator = GradientEstimator(GlobalTarget(), guess(), perturbation(), engine=engine())
    estimator.estimate(blocks, *batch)
    return body_gradients(blocks)


def detached_statistics():
    """Stops a gradient that no output depends on."""

    def function(self, x):
        h = self.layer(x)
        self.mean.lerp_(h.mean(0).detach(), 0.1)
        return torch.tanh(h)

    body = Body(function, layer=linear())
    body.register_buffer("mean", torch.zeros(SIZE))
    return body


def masked():
    layer = linear()
    mask = torch.ones(SIZE, SIZE, dtype=torch.float64)
    mask[0] = 0
    layer.weight.register_hook(lambda gradient: gradient * mask)
    return nn.Sequential(layer, nn.Tanh())


def scaled():
    layer = linear()
    layer.weight.register_hook(lambda gradient: 0.1 * gradient)
    return nn.Sequential(layer, nn.Tanh())


def as_many_steps_as_samples():
    """Time first, with five steps of five samples."""

    def function(self, x):
        steps = x.unsqueeze(0) * torch.linspace(-1, 1, 5, dtype=x.dtype).view(-1, 1, 1)
        return torch.tanh(self.layer(steps)).mean(0)

    return Body(function, layer=linear())


def scripted():
    with warnings.catch_warnings(action="ignore"):  # it is deprecated, and there
        return nn.Sequential(torch.jit.script(nn.Sequential(linear(), nn.Tanh())), linear())


RIGHT_EVERYWHERE = (
    shared,
    forward_hook,
    other_forward,
    other_weights,
    detached_statistics,
    as_many_steps_as_samples,
    sorted_samples,
    scripted,
    logged_number,
)
REFUSED = {
    energy: {ForwardMode: "cannot run without gradients", FiniteDifferences: "cannot run without gradients"},
    detached_norm: {FiniteDifferences: "stops or changes gradients"},
    straight_through: {ForwardMode: "jvp", FiniteDifferences: r"a backward pass of its own \(Rounded\)"},
    hook_on_a_tensor: {ForwardMode: "not its gradient", FiniteDifferences: "stops or changes gradients"},
    hook_on_an_operation: {ForwardMode: "not its gradient", FiniteDifferences: "stops or changes gradients"},
    number_from_a_tensor: {FiniteDifferences: "stops or changes gradients"},
    gradient_as_a_constant: {ForwardMode: "not its gradient", FiniteDifferences: "stops or changes gradients"},
    backward_hook: {ForwardMode: ".", FiniteDifferences: "a backward pass of its own"},
    masked: {ForwardMode: "a parameter with a hook", FiniteDifferences: "a parameter with a hook"},
    scaled: {ForwardMode: "a parameter with a hook", FiniteDifferences: "a parameter with a hook"},
}
"""Why an engine refuses a body; all others are right."""


@pytest.mark.parametrize("perturb", ["weight", "weight_per_sample"])
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("make", [*RIGHT_EVERYWHERE, *REFUSED])
def test_a_body_is_right_or_refused(make, engine, perturb):
    blocks, batch = network(make)
    perturbation = {"weight": WeightPerturbation, "weight_per_sample": WeightPerSamplePerturbation}[perturb]
    if engine is FiniteDifferences and perturb == "weight_per_sample":
        pytest.skip("means nothing")
    if (reason := REFUSED.get(make, {}).get(engine)) is not None:
        with pytest.raises(BlockError, match=reason):
            estimate(blocks, batch, perturbation=perturbation, engine=engine)
        assert all(p.grad is None for block in blocks for p in block.parameters())
        return
    expected = Definition(network(make)[0], *batch, copied=False).estimates("global", perturb)
    before = list(nn.ModuleList(blocks).parameters())
    found = estimate(blocks, batch, perturbation=perturbation, engine=engine)
    assert_all_close(found[:2], expected, ENGINES[engine])
    assert all(a is b for a, b in zip(before, nn.ModuleList(blocks).parameters()))


def reentrant_checkpoint():
    return Body(lambda s, x: torch.utils.checkpoint.checkpoint(s.layer, x, use_reentrant=True), layer=linear())


def changed_input():
    return Body(lambda s, x: s.layer(x.mul_(2)), layer=linear())


def scripted_whole():
    return scripted()[0]


@pytest.mark.parametrize("guess", [LocalGuess, GaussianGuess])
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("make", [*RIGHT_EVERYWHERE, *REFUSED, reentrant_checkpoint, changed_input, scripted_whole])
def test_check_tells_what_a_step_does(make, engine, guess):
    blocks, batch = network(make)
    estimator = GradientEstimator(GlobalTarget(), guess(), WeightPerturbation(), engine=engine())
    told = estimator.check(blocks, batch[0])
    try:
        estimator.estimate(blocks, *batch)
        refused = False
    except BlockError:
        refused = True
    assert any(layer.path == "refused" for layer in told) == refused


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("guess", [GaussianGuess, MomentumGuess])
@pytest.mark.parametrize(("make", "factor"), [(masked, None), (scaled, 0.1)])
def test_hooks_of_parameters_apply_to_estimates_along_drawn_directions(make, factor, guess, engine):
    """The estimate is the hook's value at the estimate of the same network without the hook."""
    blocks, batch = network(make)
    torch.manual_seed(1)
    found = estimate(blocks, batch, guess, engine=engine)
    blocks, batch = network(make)
    for block in blocks[:2]:
        block.body[0].weight._backward_hooks.clear()
    torch.manual_seed(1)
    expected = estimate(blocks, batch, guess, engine=engine)
    for block in (0, 1):
        plain = expected[block][0].clone()
        plain = plain * factor if factor else torch.cat([0 * plain[:1], plain[1:]])
        assert_close(found[block][0], plain)
        assert_close(found[block][1], expected[block][1])


@pytest.mark.parametrize("perturbation", [WeightPerturbation, WeightPerSamplePerturbation, ActivityPerturbation])
@pytest.mark.parametrize("guess", [LocalGuess, GaussianGuess])
def test_masked_weights_do_not_move(guess, perturbation):
    blocks, batch = network(masked)
    for gradient, _ in estimate(blocks, batch, guess, perturbation)[:2]:
        assert not gradient[0].any()
        assert gradient[1:].all()


@pytest.mark.parametrize("engine", ENGINES)
def test_hooks_after_accumulation_are_called_once_with_the_estimate(engine):
    blocks, batch = network(lambda: nn.Sequential(linear(), nn.Tanh()))
    seen = []
    blocks[0].body[0].weight.register_post_accumulate_grad_hook(lambda p: seen.append(p.grad.clone()))
    found = estimate(blocks, batch, engine=engine)
    assert len(seen) == 1
    assert torch.equal(seen[0], found[0][0])


class Words(nn.Module):
    def __init__(self, embed, **options):
        super().__init__()
        self.words = nn.Embedding(10, SIZE, **options) if embed is nn.Embedding else embed(10, SIZE, **options)
        self.out = linear()

    def forward(self, x):
        found = self.words(x)
        return torch.tanh(self.out(found.mean(1) if found.dim() == 3 else found))


def words(embed, **options):
    torch.manual_seed(0)
    bodies = [Words(embed, **options), nn.Sequential(linear(), nn.Tanh()), nn.Tanh()]
    blocks = [Block(body, nn.Linear(SIZE, CLASSES)).double() for body in bodies]
    return blocks, (torch.tensor([[0, 1, 1], [2, 0, 3], [3, 3, 4], [4, 1, 0]]), torch.arange(4) % CLASSES)


EMBEDDINGS = [(nn.Embedding, {"padding_idx": 0}), (nn.EmbeddingBag, {"padding_idx": 1, "mode": "sum"})]


@pytest.mark.parametrize(("embed", "options"), EMBEDDINGS)
@pytest.mark.parametrize("guess", [LocalGuess, GaussianGuess])
def test_padding_rows_stay_in_all_engines_alike(guess, embed, options):
    found = {}
    for engine in ENGINES:
        blocks, batch = words(embed, **options)
        torch.manual_seed(1)
        try:
            found[engine] = estimate(blocks, batch, guess, engine=engine)
        except BlockError:
            assert (engine, embed) == (ForwardMode, nn.EmbeddingBag)  # torch has no derivative
            continue
        rows = found[engine][0][0].abs().sum(1)
        assert rows[options["padding_idx"]] == 0
        assert rows[4] > 0
        assert_all_close(found[engine][:2], found[ReverseMode][:2], ENGINES[engine])


def test_padding_rows_stay_for_every_sample():
    for guess in (LocalGuess, GaussianGuess):
        blocks, batch = words(nn.Embedding, padding_idx=0)
        assert not estimate(blocks, batch, guess, WeightPerSamplePerturbation)[0][0][0].any()


@pytest.mark.parametrize("engine", [ForwardMode, FiniteDifferences])
@pytest.mark.parametrize(
    ("options", "said"),
    [({"scale_grad_by_freq": True}, "."), ({"max_norm": 0.5}, "changes its parameters when it runs")],
)
def test_what_only_a_backward_honours_is_refused(options, said, engine):
    blocks, batch = words(nn.Embedding, **options)
    with pytest.raises(BlockError, match=said):
        estimate(blocks, batch, engine=engine)


@pytest.mark.parametrize("options", [{"scale_grad_by_freq": True}, {"max_norm": 0.5}, {"sparse": True}])
def test_what_only_a_backward_honours_is_right_in_reverse_mode(options):
    blocks, batch = words(nn.Embedding, **options)
    blocks[0].body(batch[0])  # a norm is cut down at once
    dense = words(nn.Embedding, **{name: value for name, value in options.items() if name != "sparse"})[0]
    dense[0].body(batch[0])
    expected = Definition(dense, *batch).estimates("global", "weight")
    assert_all_close(estimate(blocks, batch)[:2], expected)


def drawing(draw):
    """Skips a layer by a draw that ``draw`` makes."""
    return Body(lambda s, x: torch.tanh(s.first(x)) * (1 if draw() < 0.5 else 0.3), first=linear())


DRAWS = {
    "python": (random.random, random.seed),
    "numpy": (np.random.random, np.random.seed),
    "torch": (lambda: float(torch.rand(())), torch.manual_seed),
}


@pytest.mark.parametrize("generator", DRAWS)
@pytest.mark.parametrize("granularity", ["tensor", "network"])
def test_finite_differences_draw_what_the_step_drew(generator, granularity):
    draw, seed = DRAWS[generator]
    blocks, batch = network(lambda: drawing(draw))
    estimator = GradientEstimator(
        GlobalTarget(), LocalGuess(), WeightPerturbation(granularity), engine=FiniteDifferences()
    )
    kinds = set()
    for start in range(8):
        seed(start)
        drawn = [draw(), draw()]
        fixed = [drawing(lambda value=value: value) for value in drawn]
        for body, block in zip(fixed, blocks):
            body.load_state_dict(block.body.state_dict())
            body.double()
        as_drawn = [Block(body, block.aux) for body, block in zip(fixed, blocks)] + blocks[2:]
        expected = Definition(as_drawn, *batch).estimates("global", "weight", granularity)
        seed(start)
        estimator.estimate(blocks, *batch)
        assert_all_close(body_gradients(blocks)[:2], expected, 1e-5)
        kinds.add(tuple(value < 0.5 for value in drawn))
    assert len(kinds) > 2


@pytest.mark.parametrize("generator", DRAWS)
def test_forward_mode_refuses_draws(generator):
    blocks, batch = network(lambda: drawing(DRAWS[generator][0]))
    with pytest.raises(BlockError, match="draws random numbers"):
        estimate(blocks, batch, engine=ForwardMode)


@pytest.mark.parametrize("engine", [ForwardMode, FiniteDifferences])
def test_a_generator_of_ones_own_is_refused(engine):
    own = cycle([0.1, 0.9])
    blocks, batch = network(lambda: drawing(lambda: next(own)))
    with pytest.raises(BlockError, match="gives another output each time it runs"):
        estimate(blocks, batch, engine=engine)


@pytest.mark.parametrize("engine", [ForwardMode, FiniteDifferences])
def test_a_network_is_inspected_again_once_it_changes(engine):
    blocks, batch = network(lambda: nn.Sequential(linear(), nn.Tanh()))
    estimator = GradientEstimator(GlobalTarget(), LocalGuess(), WeightPerturbation(), engine=engine())
    estimator.estimate(blocks, *batch)
    blocks[1].body.append(straight_through().double())
    with pytest.raises(BlockError):
        estimator.estimate(blocks, *batch)


def test_complex_parameters_are_refused_where_something_is_projected():
    body = Body(lambda s, x: (x * s.w).abs(), w=nn.Parameter(torch.randn(SIZE, dtype=torch.complex128)))
    blocks, batch = network(lambda: body)
    blocks[1].body = nn.Tanh()
    with pytest.raises(BlockError, match=r"w of block 0 must be real to be projected, and is torch.complex128"):
        estimate(blocks, batch)


@pytest.mark.parametrize("engine", [ForwardMode, FiniteDifferences])
def test_a_body_made_for_one_size_of_batch_is_right(engine):
    blocks, _ = network(lambda: Body(lambda s, x: torch.tanh(s.layer(x)).view(12, SIZE), layer=linear()))
    batch = torch.randn(12, SIZE, dtype=torch.float64), torch.arange(12) % CLASSES
    expected = estimate(blocks, batch)
    assert_all_close(estimate(blocks, batch, engine=engine), expected, ENGINES[engine])


def test_numbers_that_are_not_finite_are_no_reason_to_refuse():
    blocks, batch = network(lambda: Body(lambda s, x: s.layer(x).log(), layer=linear()))
    assert any(g.isnan().any() for part in estimate(blocks, batch, engine=ForwardMode) for g in part)


@pytest.mark.parametrize("perturbation", [WeightPerturbation, WeightPerSamplePerturbation])
@pytest.mark.parametrize("engine", ENGINES)
def test_autocast_inside_of_a_body(engine, perturbation):
    """Estimates are those without, as well as bfloat16 can tell."""
    if engine is FiniteDifferences and perturbation is WeightPerSamplePerturbation:
        pytest.skip("means nothing")

    def estimated(enabled):
        def function(self, x):
            with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
                h = self.layer(x)
            return torch.tanh(h.float())

        blocks, (images, labels) = network(lambda: Body(function, layer=linear()))
        blocks = [block.float() for block in blocks]
        return estimate(blocks, (images.float(), labels), perturbation=perturbation, engine=engine)

    for found, expected in zip(estimated(True)[:2], estimated(False)[:2]):
        for a, b in zip(found, expected):
            assert (a - b).norm() < 0.15 * b.norm()


def test_tangents_are_not_pushed_through_the_first_block():
    """A body with dual numbers of its own, which are not possible inside of others."""

    def function(self, x):
        return torch.func.jvp(lambda z: torch.tanh(self.layer(z)), (x,), (torch.ones_like(x),))[1]

    blocks, batch = network(linear)
    blocks[0].body = Body(function, layer=linear().double())
    estimator = GradientEstimator(GlobalTarget(), LocalGuess(), ActivityPerturbation(), engine=ForwardMode())
    assert {layer.path for layer in estimator.check(blocks, batch[0])} == {"fast"}
    estimator.estimate(blocks, *batch)
    found = body_gradients(blocks)
    GradientEstimator(GlobalTarget(), LocalGuess(), ActivityPerturbation()).estimate(blocks, *batch)
    assert_all_close(found, body_gradients(blocks))


@pytest.mark.parametrize("perturbation", [WeightPerturbation, WeightPerSamplePerturbation])
@pytest.mark.parametrize("make", [hook_on_a_tensor, hook_on_an_operation])
def test_hooks_that_come_between_two_steps_are_seen(make, perturbation):
    """A body that changes gradients from some step on."""
    blocks, batch = network(make)
    expected = estimate(blocks, batch, perturbation=perturbation)
    changing = False
    for block in blocks[:2]:
        changes = block.body.function
        block.body.function = lambda s, x, changes=changes: changes(s, x) if changing else torch.tanh(s.layer(x))
    estimator = GradientEstimator(GlobalTarget(), LocalGuess(), perturbation())
    estimator.estimate(blocks, *batch)
    assert any((a - b).abs().max() > 1e-6 for a, b in zip(body_gradients(blocks)[0], expected[0]))
    changing = True
    estimator.estimate(blocks, *batch)
    assert_all_close(body_gradients(blocks), expected)
