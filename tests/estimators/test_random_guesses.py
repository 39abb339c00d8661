"""Random directions have mean zero and unit covariance, and what is estimated with them is right on average."""

import pytest
import torch
from helpers import Tap, build, estimator_of
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


@pytest.mark.parametrize("guess", [*RANDOM, "low_rank"])
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


# Of low rank


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_low_rank_directions_have_their_rank(rank):
    """As matrices of (out, the rest) for weights, also of each sample, and (channels, positions) for activities."""
    torch.manual_seed(0)
    guess = estimator_of({"guess.rank": rank}, guess="low_rank").guess
    convolution = guess.sample(torch.zeros(6, 5, 3, 3))
    assert convolution.shape == (6, 5, 3, 3)
    assert torch.linalg.matrix_rank(convolution.flatten(1)) == rank
    assert torch.linalg.matrix_rank(guess.sample(torch.zeros(4, 7))) == rank
    assert (torch.linalg.matrix_rank(guess.sample_each(torch.zeros(9, 6, 5, 3, 3)).flatten(2)) == rank).all()
    vectors = guess.sample_each(torch.zeros(50, 5))
    assert torch.linalg.matrix_rank(vectors) == 5
    assert guess.sample(torch.zeros(5)).shape == (5,)
    assert guess.sample(torch.zeros(())).shape == ()

    model, estimator, batch = build({"guess.rank": rank, "model.width": 1 / 8}, guess="low_rank", perturb="activity")
    seen = []
    in_space = estimator.guess.in_space
    estimator.guess.in_space = lambda *given, **how: seen.append([*in_space(*given, **how)]) or seen[-1]
    estimator.estimate(model, *batch)
    assert (torch.linalg.matrix_rank(seen[0][0][0].flatten(2)) == rank).all()


@pytest.mark.parametrize("rank", [1, 3])
def test_low_rank_directions_have_unit_covariance_but_are_not_normal(rank):
    torch.manual_seed(0)
    draws = estimator_of({"guess.rank": rank}, guess="low_rank").guess.sample_each(
        torch.zeros(100_000, 2, 3, dtype=torch.float64)
    )
    rows = draws.flatten(1)
    error = 9**0.5 / len(rows) ** 0.5  # of a product of two entries; E[xi^4] = 9 for a product of two normal numbers
    assert rows.mean(0).abs().max() < 5 / len(rows) ** 0.5
    assert (rows.T @ rows / len(rows) - torch.eye(6)).abs().max() < 5 * error
    kurtosis = (rows**4).mean(0)
    assert (kurtosis - (3 + 6 / rank)).abs().max() < 1.5


PINNED = {
    ("low_rank", "weight"): 0.09547674748474645,
    ("low_rank", "weight_per_sample"): 0.13700638259073764,
    ("guided", "weight"): 0.011833823847585339,
    ("guided", "activity"): 0.07056128442004474,
}
"""Norms of the first block's estimate, as they were when this was written."""


@pytest.mark.parametrize(("guess", "perturb"), PINNED)
def test_an_estimate_that_was(guess, perturb):
    torch.manual_seed(0)
    blocks = small_blocks(0, 3)
    images = torch.randn(4, 2, dtype=torch.float64)
    estimator_of(guess=guess, perturb=perturb).estimate(blocks, images, torch.tensor([0, 1, 0, 1]))
    assert float(blocks[0].body[0].weight.grad.norm()) == pytest.approx(PINNED[guess, perturb], rel=1e-9)
