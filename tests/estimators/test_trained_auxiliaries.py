"""Auxiliary networks train where they should, and by their own loss."""

from itertools import pairwise, product

import pytest
import torch
from definition import Definition
from helpers import (
    GUESSES,
    TARGETS,
    assert_all_close,
    assert_close,
    assert_same_gradients,
    build,
    estimator_of,
    every_pair,
    gradients,
    snapshot,
    tapped_blocks,
    trains_auxiliaries,
    uses_auxiliaries,
)

from fglight.errors import ConfigError


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
