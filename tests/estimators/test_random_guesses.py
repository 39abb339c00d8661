"""Random directions have mean zero and unit covariance, and what is estimated with them is right on average."""

import pytest
import torch
from helpers import Tap, estimator_of
from torch import nn

from fglight.models import Block

STANDARD_ERRORS = 4
RANDOM = ("gaussian", "rademacher")


@pytest.mark.parametrize("guess", RANDOM)
def test_directions_have_unit_covariance(guess):
    torch.manual_seed(0)
    like = torch.zeros(20_000, 3, dtype=torch.float64)
    draws = estimator_of(guess=guess).guess.sample(like)
    assert (draws.shape, draws.dtype) == (like.shape, like.dtype)
    assert draws.mean(0).abs().max() < 5 / len(draws) ** 0.5
    assert (draws.T @ draws / len(draws) - torch.eye(3)).abs().max() < 5 * 2**0.5 / len(draws) ** 0.5
    if guess == "rademacher":
        assert set(draws.unique().tolist()) == {-1, 1}
    else:
        assert ((draws.abs() < 1).double().mean() - 0.6827).abs() < 0.01


def small_blocks(batch, count):
    """Blocks of one small linear layer each; where ``batch`` is given, a tap holds the estimate in activity space."""

    def body():
        layers = [nn.Linear(2, 2), nn.Tanh()]
        return nn.Sequential(*layers, Tap(batch, 2)) if batch else nn.Sequential(*layers)

    return [Block(body(), nn.Linear(2, 2)).double() for _ in range(count)]


# Perturbation, granularity, what one random coefficient stands for, blocks, batch, steps.
CASES = [
    ("activity", "sample", "sample", 4, 64, 20),
    ("weight", "tensor", "tensor", 9, 4, 200),
    ("weight", "filter", "tensor", 9, 4, 200),
    ("weight", "block", "block", 9, 4, 400),
    ("weight", "network", "network", 3, 4, 1600),
    ("weight_per_sample", "tensor", "tensor", 9, 2, 200),
]


@pytest.mark.parametrize("guess", RANDOM)
@pytest.mark.parametrize(("perturb", "granularity", "unit", "count", "batch", "steps"), CASES)
def test_estimates_are_right_on_average(perturb, granularity, unit, count, batch, steps, guess):
    """The estimate's component along the target, one number a step, averages to the target's length.

    The bound is worth something only if it tells an estimator that is off by a quarter.
    """
    torch.manual_seed(0)
    blocks = small_blocks(batch if unit == "sample" else 0, count)
    # Samples much alike: their gradients add up, so that the sum is not small against the noise of its parts.
    images, labels = 1 + 0.2 * torch.randn(batch, 2, dtype=torch.float64), torch.zeros(batch, dtype=torch.long)
    choices = {"target": "global", "perturb": perturb}
    settings = {"perturb.granularity": granularity}

    def pieces():
        """The estimate in independent pieces."""
        gradients = [[p.grad for p in block.body.parameters()] for block in blocks[:-1]]
        if unit == "sample":
            return [row for part in gradients for row in part[-1]]
        if unit == "tensor":
            return [gradient.flatten() for part in gradients for gradient in part]
        joint = [torch.cat([gradient.flatten() for gradient in part]) for part in gradients]
        return joint if unit == "block" else [torch.cat(joint)]

    # The exact guess's gradient of a tap is the exact target in the space of the activities.
    estimator_of(settings, guess="exact", **choices).estimate(blocks, images, labels)
    targets = pieces()
    estimator = estimator_of(settings, guess=guess, **choices)
    components, total = [], [torch.zeros_like(target) for target in targets]
    for _ in range(steps):
        estimator.estimate(blocks, images, labels)
        estimates = pieces()
        components.append(torch.stack([e @ t / (t @ t) for e, t in zip(estimates, targets)]).mean())
        torch._foreach_add_(total, estimates)
    components = torch.stack(components)
    mean, error = components.mean(), components.std() / steps**0.5
    assert (mean - 1).abs() < STANDARD_ERRORS * error
    assert (1.25 * mean - 1).abs() > STANDARD_ERRORS * 1.25 * error
    assert (0.75 * mean - 1).abs() > STANDARD_ERRORS * 0.75 * error

    # Across the target the estimates cancel.
    across = [m / steps - (m / steps @ t) / (t @ t) * t for m, t in zip(total, targets)]
    sizes = torch.stack([(a @ a) / (t @ t) / max(1, len(t) - 1) for a, t in zip(across, targets)])
    draws = steps if perturb != "weight_per_sample" else steps / batch
    assert sizes.mean() < 4 / draws


@pytest.mark.parametrize("guess", RANDOM)
@pytest.mark.parametrize("perturb", ["activity", "activity_span", "weight", "weight_per_sample"])
def test_directions_are_drawn_in_the_order_of_blocks_and_parameters(perturb, guess):
    blocks = small_blocks(4, 4)
    estimator = estimator_of(guess=guess, perturb=perturb)
    drawn = []
    estimator.guess.sample = lambda like: drawn.append(like) or torch.ones_like(like)
    estimator.estimate(blocks, torch.randn(4, 2, dtype=torch.float64), torch.tensor([0, 1, 0, 1]))
    shapes = [tuple(like.shape) for like in drawn]
    parameters = [(2, 2), (2,), (4, 2)]
    expected = {"weight": parameters * 3, "weight_per_sample": [(4, *shape) for shape in parameters] * 3}
    assert shapes == expected.get(perturb, [(4, 2)] * 3)
    assert not any(like.requires_grad for like in drawn)


@pytest.mark.parametrize("perturb", ["activity", "weight", "weight_per_sample"])
def test_a_seed_repeats_the_estimate(perturb):
    results = []
    for seed in (1, 1, 2):
        torch.manual_seed(0)
        blocks = small_blocks(0, 3)
        images = torch.randn(4, 2, dtype=torch.float64)
        torch.manual_seed(seed)
        estimator_of(guess="gaussian", perturb=perturb).estimate(blocks, images, torch.tensor([0, 1, 0, 1]))
        results.append(blocks[0].body[0].weight.grad)
    assert torch.equal(results[0], results[1])
    assert not torch.allclose(results[0], results[2])
