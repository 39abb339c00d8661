"""The running mean of past estimates."""

import pytest
import torch
from helpers import (
    assert_close,
    assert_same_gradients,
    body_gradients,
    estimator_of,
    gradients,
    snapshot,
    uncoupled_blocks,
)

from fglight.errors import ConfigError
from fglight.models import BlockNetwork


def network():
    blocks, batch = uncoupled_blocks()
    return BlockNetwork(blocks), batch


def cosine(a, b):
    return (a * b).sum() / (a.norm() * b.norm())


def test_what_lasts_is_the_running_mean_of_the_estimates():
    model, batch = network()
    estimator = estimator_of({"guess.decay": 0.75, "guess.noise": 0.5}, guess="momentum")
    means = None
    for _ in range(3):
        estimator.estimate(model, *batch)
        found = [torch.cat([torch.zeros(0), *(g.flatten() for g in block)]) for block in body_gradients(model)]
        means = [0.75 * mean + 0.25 * new for mean, new in zip(means or [0 * new for new in found], found)]
    for block, mean in zip(model.blocks, means):
        if len(mean):
            assert_close(block.momentum, mean)
    assert not hasattr(model.blocks[-1], "momentum")


def test_the_first_direction_is_noise_and_later_ones_are_the_mean():
    model, batch = network()
    estimator = estimator_of({"perturb.coefficient": "one"}, guess="momentum")
    torch.manual_seed(1)
    estimator.estimate(model, *batch)
    first = body_gradients(model)
    torch.manual_seed(1)
    for block in first:
        for gradient in block:
            noise = torch.randn(gradient.numel(), dtype=gradient.dtype)
            assert_close(gradient, (noise / noise.norm()).view_as(gradient))
    estimator.estimate(model, *batch)
    for now, before in zip(body_gradients(model), first):
        for gradient, past in zip(now, before):
            assert_close(gradient, past)  # of unit length, as all directions are


@pytest.mark.parametrize("noise", [0.0, 0.36, 1.0])
def test_noise_is_a_share_of_the_squared_length(noise):
    """Of a weight with many entries: noise is then nearly orthogonal to the mean."""
    model, batch = network()
    model.blocks[0].body[0] = torch.nn.Conv2d(2, 4, 33, padding=16).double()
    estimator = estimator_of({"perturb.coefficient": "one", "guess.noise": noise}, guess="momentum")
    estimator.estimate(model, *batch)
    weight = model.blocks[0].body[0].weight
    mean = weight.grad
    estimator.estimate(model, *batch)
    assert abs(cosine(weight.grad, mean) - (1 - noise) ** 0.5) < 5 / weight.numel() ** 0.5


def test_without_noise_a_tensor_stays_on_one_line():
    """Every estimate is a multiple of the last one: the mean of such estimates is, too."""
    model, (images, labels) = network()
    estimator = estimator_of(guess="momentum")
    estimator.estimate(model, images, labels)
    first = body_gradients(model)
    for step in range(3):
        estimator.estimate(model, images.roll(step + 1, 0) + 0.1, labels)
        for now, before in zip(body_gradients(model), first):
            for gradient, past in zip(now, before):
                assert abs(cosine(gradient, past)) == pytest.approx(1)


def test_a_loaded_state_goes_on():
    (model, batch), (other, _) = network(), network()
    estimator_of(guess="momentum").estimate(model, *batch)
    other.load_state_dict(snapshot(model))
    for each in (model, other):
        estimator_of(guess="momentum").estimate(each, *batch)
    assert_same_gradients(gradients(other), gradients(model), 0)
    assert all(torch.equal(snapshot(other)[name], value) for name, value in snapshot(model).items())


def test_a_frozen_parameter_keeps_its_place():
    model, batch = network()
    estimator = estimator_of(guess="momentum")
    estimator.estimate(model, *batch)
    past = model.blocks[0].body[0].bias.grad
    model.blocks[0].body[0].weight.requires_grad_(False)
    estimator.estimate(model, *batch)
    assert abs(cosine(model.blocks[0].body[0].bias.grad, past)) == pytest.approx(1)
    assert model.blocks[0].body[0].weight.grad is None


@pytest.mark.parametrize("perturb", ["activity", "activity_span", "weight_per_sample"])
def test_it_is_refused_but_for_weights(perturb):
    with pytest.raises(ConfigError, match=r"is not possible with MomentumGuess, .*: use perturb=weight"):
        estimator_of(guess="momentum", perturb=perturb)


@pytest.mark.parametrize(("name", "value"), [("decay", 1), ("decay", -0.1), ("noise", 1.5), ("noise", "much")])
def test_what_means_nothing_is_refused(name, value):
    with pytest.raises(ConfigError, match=rf"guess\.{name} must be a number.*, got {value}"):
        estimator_of({f"guess.{name}": value}, guess="momentum")
