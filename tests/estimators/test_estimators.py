"""What every estimate must satisfy: the definitions, computed the long way, and what follows from them."""

from copy import deepcopy
from itertools import combinations, pairwise, product

import pytest
import torch
import torch.nn.functional as F
from definition import Definition, on_span
from helpers import (
    ALL_PERTURBATIONS,
    AUXILIARIES,
    GRANULARITIES,
    GUESSES,
    MODELS,
    PERTURBATIONS,
    TARGETS,
    assert_all_close,
    assert_close,
    assert_same_gradients,
    body_gradients,
    build,
    estimator_of,
    every_pair,
    gradients,
    snapshot,
    tapped_blocks,
)
from torch import nn

from fglight.errors import ConfigError
from fglight.estimators.linalg import project_on_span
from fglight.models import Block

DETERMINISTIC = ("local", "ntk", "fixed_ntk")
RANDOM = ("gaussian", "rademacher")
BY_DEFINITION = [case for case in ALL_PERTURBATIONS if case[0] != "weight_per_sample"]


def uses_auxiliaries(target, guess):
    return target != "global" or guess in DETERMINISTIC


def trains_auxiliaries(target, guess):
    return uses_auxiliaries(target, guess) and guess not in ("ntk", "fixed_ntk")


# The exact guess


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", MODELS)
def test_global_exact_is_backpropagation(name, training):
    model, estimator, (images, labels) = build(model=name, guess="exact")
    model.train(training)
    plain = deepcopy(model)
    logits = plain(images)
    loss = F.cross_entropy(logits, labels)
    loss.backward()
    step = estimator.estimate(model, images, labels)
    assert_same_gradients(gradients(model), gradients(plain))
    assert_close(step.loss, loss.detach())
    assert_close(step.logits, logits.detach())


@pytest.mark.parametrize("aux", AUXILIARIES)
@pytest.mark.parametrize("name", MODELS)
def test_local_exact_trains_every_block_on_its_own_loss(name, aux):
    model, estimator, (images, labels) = build(model=name, aux=aux, target="local", guess="exact")
    alone = deepcopy(model)
    losses = []
    hidden = images
    for block in alone.blocks:
        hidden = block.body(hidden.detach())
        losses.append(block.loss(hidden, labels)[0])
        losses[-1].backward()
    step = estimator.estimate(model, images, labels)
    assert_same_gradients(gradients(model), gradients(alone))
    assert_close(torch.stack([local.loss for local in step.local] + [step.loss]), torch.stack(losses).detach())


@pytest.mark.parametrize("perturb", PERTURBATIONS)
def test_a_projection_on_the_target_itself_is_the_target(perturb):
    blocks, batch = tapped_blocks()
    estimator_of(target="local", guess="local", perturb=perturb).estimate(blocks, *batch)
    projected = gradients(blocks)
    estimator_of(target="local", guess="exact").estimate(blocks, *batch)
    assert_same_gradients(projected, gradients(blocks))


# Definitions


@pytest.mark.parametrize("aux", AUXILIARIES)
@pytest.mark.parametrize("target", TARGETS)
def test_targets_by_definition(target, aux):
    model, exact, batch = build(target=target, guess="exact", aux=aux)
    definition = Definition(model, *batch)
    exact.estimate(model, *batch)
    assert_all_close(body_gradients(model), [definition.weight(target, j) for j in range(7)])


def test_the_intermediate_target_of_the_last_but_one_block_is_the_networks_loss():
    model, intermediate, batch = build(target="intermediate", guess="exact")
    intermediate.estimate(model, *batch)
    expected = body_gradients(model)
    estimator_of(target="global", guess="exact").estimate(model, *batch)
    assert_all_close(body_gradients(model)[-1:], expected[-1:])
    with pytest.raises(AssertionError, match="off by"):
        assert_all_close(body_gradients(model), expected)


@pytest.mark.parametrize(("perturb", "granularity"), BY_DEFINITION)
@pytest.mark.parametrize("target", TARGETS)
def test_projections_by_definition(target, perturb, granularity):
    blocks, batch = tapped_blocks()
    estimator = estimator_of({"perturb.granularity": granularity}, target=target, perturb=perturb)
    estimator.estimate(blocks, *batch)
    assert_all_close(body_gradients(blocks), Definition(blocks, *batch).estimates(target, perturb, granularity))


@pytest.mark.parametrize(
    ("name", "perturb", "granularity"),
    [
        ("resnet18_16", "activity", "sample"),
        ("resnet18_8", "activity", "channel"),
        ("resnet18_8", "weight", "filter"),
        ("resnet18_16", "weight", "tensor"),
        ("resnet18_8", "weight", "block"),
        ("resnet18_8", "weight", "network"),
    ],
)
def test_projections_by_definition_in_the_papers_networks(name, perturb, granularity):
    model, estimator, batch = build({"perturb.granularity": granularity}, model=name, perturb=perturb)
    estimator.estimate(model, *batch)
    assert_all_close(body_gradients(model), Definition(model, *batch).estimates("global", perturb, granularity))


def test_granularities_differ():
    estimates = []
    for granularity in GRANULARITIES["weight"]:
        blocks, batch = tapped_blocks()
        estimator_of({"perturb.granularity": granularity}).estimate(blocks, *batch)
        estimates.append(torch.cat([p.flatten() for ps in body_gradients(blocks) for p in ps]))
    for one, other in combinations(estimates, 2):
        assert not torch.allclose(one, other, rtol=1e-3)


@pytest.mark.parametrize("perturb", ["activity", "weight"])
def test_finer_granularities_come_closer_to_the_target(perturb):
    """Projections on larger and larger subspaces; both sides measured where the projection takes place."""
    distances = []
    for granularity in GRANULARITIES[perturb]:
        blocks, batch = tapped_blocks()
        targets = [Definition(blocks, *batch).weight("global", j) for j in range(3)]
        estimator_of({"perturb.granularity": granularity}, perturb=perturb).estimate(blocks, *batch)
        pairs = [(ts, es) for ts, es in zip(targets, body_gradients(blocks))]
        # The gradient of a tap, the last of a body, is the estimate in the space of its output.
        pairs = pairs if perturb == "weight" else [(ts[-1:], es[-1:]) for ts, es in pairs]
        distances.append(sum(((t - e) ** 2).sum() for ts, es in pairs for t, e in zip(ts, es)).sqrt())
    for coarse, fine in pairwise(distances):
        assert fine < 0.999 * coarse


# Length


@every_pair(target=TARGETS, guess=DETERMINISTIC, way=BY_DEFINITION)
def test_an_estimate_is_never_longer_than_its_target(target, guess, way):
    perturb, granularity = way
    if guess == "ntk":  # draws other auxiliaries than the definition has, which only the global target ignores
        target = "global"
    blocks, batch = tapped_blocks()
    definition = Definition(blocks, *batch)
    estimator_of({"perturb.granularity": granularity}, target=target, guess=guess, perturb=perturb).estimate(
        blocks, *batch
    )
    estimates = body_gradients(blocks)
    if perturb == "weight":
        pairs = list(zip(estimates, [definition.weight(target, j) for j in range(3)]))
        lengths = [[(e.norm(), t.norm()) for e, t in zip(*pair)] for pair in pairs]
        if granularity in ("tensor", "filter"):
            units = [length for part in lengths for length in part]
        else:
            parts = lengths if granularity == "block" else [[length for part in lengths for length in part]]
            units = [(torch.stack(e).norm(), torch.stack(t).norm()) for part in parts for e, t in [zip(*part)]]
    else:  # the taps at the blocks' ends hold the estimates in the space of the activities
        taps = [(part[-1].flatten(1), definition.activity(target, j).flatten(1)) for j, part in enumerate(estimates)]
        units = [(e.norm(), t.norm()) for pair in taps for e, t in zip(*pair)]
    assert all(estimate <= goal * (1 + 1e-12) for estimate, goal in units)
    assert any(estimate > 0 for estimate, _ in units)
    if target != "local":
        assert any(estimate < 0.9 * goal for estimate, goal in units)


# Span


@pytest.mark.parametrize("rank", [2, 5])
def test_the_span_projection_is_orthogonal(rank):
    torch.manual_seed(0)
    guesses = torch.randn(5, rank, dtype=torch.float64) @ torch.randn(rank, 40, dtype=torch.float64)
    guesses *= torch.logspace(-6, 0, 5, dtype=torch.float64)[:, None]  # lengths that differ must not matter
    targets = torch.randn(7, 40, dtype=torch.float64)
    projected = project_on_span(targets, guesses)
    unit = F.normalize(guesses, dim=1)
    assert ((targets - projected) @ unit.T).abs().max() < 1e-9  # nothing of the guesses is left
    assert_close(project_on_span(projected, guesses), projected)  # idempotent
    assert torch.linalg.matrix_rank(projected) == rank
    assert_close(project_on_span(guesses, guesses), guesses, 1e-9)


def test_guesses_that_differ_by_little_still_span_a_plane():
    torch.manual_seed(0)
    guess, difference, target = torch.randn(3, 1, 40, dtype=torch.float64)
    projected = project_on_span(target, torch.cat([guess, guess + 1e-4 * difference]))
    assert_close(projected, on_span(target[0], torch.cat([guess, difference]))[None], 1e-6)


def test_the_span_of_zero_guesses_is_zero():
    assert project_on_span(torch.ones(3, 4), torch.zeros(3, 4)).abs().max() == 0


def test_guesses_of_a_batch_normalised_auxiliary_are_dependent_and_still_projected_on():
    blocks, batch = tapped_blocks()
    for block, features in zip(blocks, (144, 54, 8)):
        block.aux = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(features), nn.Linear(features, 4)).double()
    definition = Definition(blocks, *batch)
    estimator_of(perturb="activity_span").estimate(blocks, *batch)
    for j, part in enumerate(body_gradients(blocks)):
        estimate, guess = part[-1].flatten(1), definition.activity("local", j).flatten(1)
        assert guess.sum(0).norm() < 1e-9 * guess.norm()
        residual = definition.activity("global", j).flatten(1) - estimate
        assert (residual @ F.normalize(guess, dim=1).T).abs().max() < 1e-9 * residual.norm()
        rank = torch.linalg.matrix_rank(guess, rtol=1e-9)
        assert torch.linalg.matrix_rank(torch.cat([guess, estimate]), rtol=1e-7) == rank < len(guess)


# Auxiliary networks


def test_ntk_draws_the_auxiliaries_afresh_before_every_step():
    model, estimator, batch = build(guess="ntk")
    model.blocks[0].aux[1].weight.data.fill_(2)
    seen = [snapshot(model)]
    for _ in range(2):
        estimator.estimate(model, *batch)
        seen.append(snapshot(model))
    drawn = {n for n, p in model.named_parameters() if ".aux." in n and p.dim() > 1 and not n.startswith("blocks.7")}
    assert len(drawn) == 7 * 5
    for before, after in pairwise(seen):
        assert all((before[name] != after[name]).any() for name in drawn)
        assert all(after[name].abs().max() <= (6 / after[name][0].numel()) ** 0.5 for name in drawn)
        kept = [n for n, _ in model.named_parameters() if ".body." in n or n.startswith("blocks.7")]
        assert all(torch.equal(before[name], after[name]) for name in kept)
    assert (seen[-1]["blocks.0.aux.1.weight"] == 1).all()


def test_ntk_guesses_with_the_networks_of_this_step():
    model, ntk, batch = build(guess="ntk", perturb="activity")
    ntk.estimate(model, *batch)
    drawn = gradients(model)
    estimator_of(guess="fixed_ntk", perturb="activity").estimate(model, *batch)
    assert_same_gradients(drawn, gradients(model), 1e-12)


@pytest.mark.parametrize(("guess", "target"), list(product(("fixed_ntk", "ntk"), TARGETS)))
def test_untrained_auxiliaries_get_no_gradient_and_are_not_for_the_optimizer(guess, target):
    model, estimator, batch = build(guess=guess, target=target)
    before = snapshot(model)
    optimizer = torch.optim.SGD(estimator.trained_parameters(model), lr=0.1, weight_decay=0.1)
    for _ in range(2):
        estimator.estimate(model, *batch)
        optimizer.step()
    trained = {id(p) for p in estimator.trained_parameters(model)}
    for name, parameter in model.named_parameters():
        auxiliary = ".aux." in name and not name.startswith("blocks.7")
        assert (parameter.grad is None) == (id(parameter) not in trained) == auxiliary, name
        if not auxiliary:
            assert not torch.equal(parameter, before[name]), name
        elif guess == "fixed_ntk":
            assert torch.equal(parameter, before[name]), name


@every_pair(target=TARGETS, guess=GUESSES, trained=[True, False], probe=[True, False])
def test_gradients_go_where_they_should(target, guess, trained, probe):
    used, trainable = uses_auxiliaries(target, guess), guess not in ("ntk", "fixed_ntk")
    settings = {"probe": probe, "aux.trained": trained}
    if probe and used and not (trainable and trained):
        with pytest.raises(ConfigError, match=r"probe"):
            build(settings, target=target, guess=guess)
        return
    model, estimator, batch = build(settings, target=target, guess=guess)
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, torch.nan)  # of an earlier step
    step = estimator.estimate(model, *batch)
    auxiliaries_train = trainable and (probe or (used and trained))
    for name, parameter in model.named_parameters():
        auxiliary = ".aux." in name and not name.startswith("blocks.7")
        assert (parameter.grad is None) == (auxiliary and not auxiliaries_train), name
        assert parameter.grad is None or parameter.grad.isfinite().all(), name
        assert parameter.grad is None or not parameter.grad.requires_grad, name
    assert [local is not None for local in step.local] == [used or probe] * 7
    expected = [p for p in model.parameters() if p.grad is not None]
    assert [id(p) for p in estimator.trained_parameters(model)] == [id(p) for p in expected]


@pytest.mark.parametrize(
    ("guess", "aux"), [("exact", "cnn"), ("gaussian", "mlp"), ("rademacher", "linear"), ("gaussian", "predsim")]
)
def test_a_probe_trains_auxiliaries_and_changes_nothing_else(guess, aux):
    model, plain, (images, labels) = build(guess=guess, aux=aux)
    probed = estimator_of({"probe": True}, guess=guess, aux=aux)
    results = []
    for estimator in (plain, probed):
        torch.manual_seed(1)
        estimator.estimate(model, images, labels)
        results.append(gradients(model))
    without, with_probe = results
    network = {name for name in without if without[name] is not None}
    assert all(torch.equal(without[name], with_probe[name]) for name in network)

    definition = Definition(model, images, labels)
    for j, block in enumerate(definition.blocks[:-1]):
        named = dict(block.aux.named_parameters())
        local = torch.autograd.grad(definition.losses[j], list(named.values()), retain_graph=True)
        for name, gradient in zip(named, local):
            assert_close(with_probe[f"{j}.aux.{name}"], gradient)


@pytest.mark.parametrize(("target", "guess"), [case for case in product(TARGETS, GUESSES) if trains_auxiliaries(*case)])
def test_trained_auxiliaries_follow_their_own_loss(target, guess):
    blocks, batch = tapped_blocks()
    definition = Definition(blocks, *batch)
    estimator_of(target=target, guess=guess, perturb="activity").estimate(blocks, *batch)
    for j, block in enumerate(blocks[:-1]):
        expected = torch.autograd.grad(
            definition.losses[j], list(definition.blocks[j].aux.parameters()), retain_graph=True
        )
        assert_all_close([[p.grad for p in block.aux.parameters()]], [expected])


# Running statistics


@every_pair(target=TARGETS, guess=GUESSES, perturb=PERTURBATIONS)
def test_running_statistics_move_once_a_step(target, guess, perturb):
    model, estimator, (images, labels) = build(target=target, guess=guess, perturb=perturb)
    plain = deepcopy(model)
    torch.manual_seed(1)
    estimator.estimate(model, images, labels)
    if guess == "ntk":
        plain.load_state_dict({**plain.state_dict(), **dict(model.named_parameters())})
    with torch.no_grad():
        hidden = images
        for block in plain.blocks:
            hidden = block.body(hidden)
            if uses_auxiliaries(target, guess) or block is plain.blocks[-1]:
                block.aux(hidden)
    for name, buffer in plain.named_buffers():
        assert torch.equal(buffer, dict(model.named_buffers())[name]), name
    assert int(model.blocks[0].body[1].num_batches_tracked) == 1


# Cosine similarity


@pytest.mark.parametrize("perturb", PERTURBATIONS[:2] + PERTURBATIONS[3:])
@pytest.mark.parametrize("target", TARGETS)
def test_cosine_by_definition(target, perturb):
    blocks, batch = tapped_blocks()
    definition = Definition(blocks, *batch)
    step = estimator_of(target=target, perturb=perturb).estimate(blocks, *batch, cosine=True)
    assert_close(step.cosine, definition.cosines(target, perturb))
    if target == "local":
        assert_close(step.cosine, torch.ones(3, dtype=torch.float64))


@every_pair(target=TARGETS, guess=GUESSES[1:], perturb=PERTURBATIONS)
def test_asking_for_the_cosine_changes_no_gradient(target, guess, perturb):
    results = []
    for cosine in (False, True):
        blocks, batch = tapped_blocks()
        torch.manual_seed(1)
        step = estimator_of(target=target, guess=guess, perturb=perturb).estimate(blocks, *batch, cosine=cosine)
        results.append(gradients(blocks))
        assert (step.cosine is not None) == cosine
    assert step.cosine.shape == (3,)
    assert step.cosine.isfinite().all()
    assert (step.cosine.abs() <= 1 + 1e-12).all()
    assert_same_gradients(*results, tolerance=0)


@pytest.mark.parametrize(
    ("guess", "perturb"),
    [
        ("gaussian", "activity"),
        ("local", "activity_span"),
        ("local", "weight"),
        ("gaussian", "weight"),
        ("local", "weight_per_sample"),
    ],
)
def test_nor_does_it_in_single_precision(guess, perturb):
    """Where kernels differ and gradients of convolutions may have another layout in memory."""
    results = []
    for cosine in (False, True):
        model, estimator, batch = build({"model.width": 1 / 8}, dtype=torch.float32, guess=guess, perturb=perturb)
        torch.manual_seed(1)
        estimator.estimate(model, *batch, cosine=cosine)
        results.append(gradients(model))
    assert_same_gradients(*results, tolerance=0)


def test_the_exact_guess_has_no_cosine():
    blocks, batch = tapped_blocks()
    assert estimator_of(guess="exact").estimate(blocks, *batch, cosine=True).cosine is None


# What the estimator works on


every_perturbation = pytest.mark.parametrize(("perturb", "granularity"), ALL_PERTURBATIONS)


def granular(granularity):
    return {"perturb.granularity": granularity}


def with_parameterless_block(blocks):
    """The same network with a block without parameters behind block 1."""
    aux = nn.Sequential(nn.Flatten(), nn.Linear(54, 4)).double()
    return [*blocks[:2], Block(nn.Tanh(), aux), *blocks[2:]]


@every_pair(way=ALL_PERTURBATIONS, guess=["exact", "local", "gaussian"], cosine=[False, True])
def test_a_body_without_parameters(way, guess, cosine):
    perturb, granularity = way
    blocks, batch = tapped_blocks()
    blocks = with_parameterless_block(blocks)
    estimator_of(granular(granularity), guess=guess, perturb=perturb).estimate(blocks, *batch, cosine=cosine)
    assert all(p.grad is not None and p.grad.isfinite().all() for block in blocks for p in block.body.parameters())
    if guess == "local" and perturb != "weight_per_sample":
        assert_all_close(body_gradients(blocks), Definition(blocks, *batch).estimates("global", perturb, granularity))


@pytest.mark.parametrize("guess", ["exact", "local", "gaussian"])
@every_perturbation
def test_frozen_parameters_get_nothing(perturb, granularity, guess):
    blocks, batch = tapped_blocks()
    frozen = [blocks[0].body[0].weight, blocks[2].body[2].bias, blocks[1].aux[1].weight, blocks[3].aux[1].bias]
    for parameter in [*frozen, *blocks[1].body.parameters()]:
        parameter.requires_grad_(False)
    estimator_of(granular(granularity), guess=guess, perturb=perturb).estimate(blocks, *batch)
    uses = guess == "local"
    for j, block in enumerate(blocks):
        for parameter in block.body.parameters():
            assert (parameter.grad is not None) == parameter.requires_grad
        for parameter in block.aux.parameters():
            assert (parameter.grad is not None) == (parameter.requires_grad and (uses or j == 3))
    if guess == "local" and perturb != "weight_per_sample":
        trained = [[p.grad for p in block.body.parameters() if p.requires_grad] for block in blocks[:-1]]
        assert_all_close(trained, Definition(blocks, *batch).estimates("global", perturb, granularity))


@pytest.mark.parametrize("engine", ["reverse", "forward"])
@every_perturbation
def test_a_single_block_is_trained_exactly(perturb, granularity, engine):
    """There is nothing to project; whatever target and guess are, none is asked for."""
    blocks, (_, labels) = tapped_blocks()
    block = blocks[-1]
    x = torch.randn(5, 8, dtype=torch.float64)
    step = estimator_of(granular(granularity), perturb=perturb, engine=engine).estimate([block], x, labels, cosine=True)
    assert step.local == []
    estimated = gradients([block])
    block.zero_grad()
    F.cross_entropy(block.aux(block.body(x)), labels).backward()
    assert_same_gradients(estimated, gradients([block]))


@every_pair(way=ALL_PERTURBATIONS, guess=["exact", "local"], target=TARGETS)
def test_a_layer_that_takes_no_part_gets_zero(way, guess, target):
    perturb, granularity = way

    class WithSpare(nn.Module):
        def __init__(self, body):
            super().__init__()
            self.body, self.spare = body, nn.Linear(2, 2).double()

        def forward(self, x):
            return self.body(x)

    blocks, batch = tapped_blocks()
    estimator = estimator_of(granular(granularity), guess=guess, target=target, perturb=perturb)
    estimator.estimate(blocks, *batch)
    expected = body_gradients(blocks)
    blocks[1].body = WithSpare(blocks[1].body)
    estimator.estimate(blocks, *batch)
    assert [p.grad.abs().max() for p in blocks[1].body.spare.parameters()] == [0, 0]
    blocks[1].body = blocks[1].body.body
    assert_all_close(body_gradients(blocks), expected)


@pytest.mark.parametrize("guess", ["local", "gaussian"])
@every_perturbation
def test_the_caller_may_be_in_no_grad(perturb, granularity, guess):
    results = []
    for context in (torch.enable_grad(), torch.no_grad()):
        blocks, batch = tapped_blocks()
        estimator = estimator_of(granular(granularity), guess=guess, perturb=perturb)
        with context:
            step = estimator.estimate(blocks, *batch)
        assert not step.loss.requires_grad
        assert not step.logits.requires_grad
        results.append(gradients(blocks))
    assert_same_gradients(*results, tolerance=0)


def test_the_images_may_require_a_gradient_and_get_none():
    blocks, (images, labels) = tapped_blocks()
    images.requires_grad_()
    estimator_of().estimate(blocks, images, labels)
    assert images.grad is None


@pytest.mark.parametrize("guess", ["exact", "local", "gaussian"])
@every_perturbation
def test_lower_precision(perturb, granularity, guess):
    """Single precision, bfloat16 autocast and bfloat16 parameters give about what double precision gives."""

    def estimate(dtype, autocast=False):
        blocks, (images, labels) = tapped_blocks(batch=16)
        blocks = [block.to(dtype) for block in blocks]
        estimator = estimator_of(granular(granularity), guess=guess, perturb=perturb)
        generator = torch.Generator().manual_seed(1)
        if guess == "gaussian":
            estimator.guess.sample = lambda like: torch.randn(like.shape, generator=generator, dtype=torch.float64).to(
                like
            )
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            step = estimator.estimate(blocks, images.to(dtype), labels, cosine=True)
        assert step.loss.isfinite()
        assert step.cosine is None or step.cosine.isfinite().all()
        parameters = [p for block in blocks for p in block.body.parameters()]
        assert {p.grad.dtype for p in parameters} == {dtype}
        return torch.cat([p.grad.double().flatten() for p in parameters])

    double = estimate(torch.float64)
    assert_close(estimate(torch.float32), double, 1e-3)
    for low in (estimate(torch.float32, autocast=True), estimate(torch.bfloat16)):
        assert low.isfinite().all()
        assert F.cosine_similarity(low, double, dim=0) > 0.9


# Everything with everything


@every_pair(name=MODELS, target=TARGETS, aux=AUXILIARIES, guess=GUESSES, way=ALL_PERTURBATIONS)
def test_every_combination(name, target, aux, guess, way):
    """Finite gradients of the right shape where they belong, and the exact ones in the last block."""
    perturb, granularity = way
    settings = {"perturb.granularity": granularity, "model.width": 1 / 64}
    model, estimator, (images, labels) = build(
        settings, model=name, target=target, aux=aux, guess=guess, perturb=perturb, batch=4
    )
    last = list(model.blocks[-1].parameters())
    auxiliaries = {id(p) for block in model.blocks[:-1] for p in block.aux.parameters()}
    copy = deepcopy(model)
    exact = torch.autograd.grad(F.cross_entropy(copy(images), labels), list(copy.blocks[-1].parameters()))
    estimator.estimate(model, images, labels)
    for part, parameter in model.named_parameters():
        expected = id(parameter) not in auxiliaries or trains_auxiliaries(target, guess)
        assert (parameter.grad is not None) == expected, part
        assert not expected or parameter.grad.isfinite().all(), part
    for parameter, gradient in zip(last, exact, strict=True):
        assert_close(parameter.grad, gradient)


@pytest.mark.parametrize("perturb", ["activity", "activity_span", "weight_per_sample"])
@pytest.mark.parametrize("granularity", ["block", "network"])
def test_a_granularity_that_means_nothing_is_refused_by_name(perturb, granularity):
    with pytest.raises(ConfigError, match=rf"perturb\.granularity={granularity}.*accepted"):
        build({"perturb.granularity": granularity}, perturb=perturb)
