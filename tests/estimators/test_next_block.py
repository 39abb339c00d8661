"""Random cotangents pulled back through the next block."""

import torch
from helpers import Tap, assert_close, estimator_of
from torch import nn

from fglight.models import Block

SAMPLES = 4000


def linear_and_relu(batch):
    """A tap for the estimate at h_0, then a linear layer with ReLU as block 1."""
    torch.manual_seed(0)
    bodies = [
        nn.Sequential(nn.Linear(3, 4), nn.Tanh(), Tap(batch, 4)),
        nn.Sequential(nn.Linear(4, 2), nn.ReLU()),
        nn.Identity(),
    ]
    return [Block(body, nn.Linear(2, 3)).double() for body in bodies]


def estimates(blocks, images, labels, coefficient):
    """What is estimated for h_0, ``(batch, 4)``."""
    estimator = estimator_of({"perturb.coefficient": coefficient}, guess="next_block", perturb="activity")
    torch.manual_seed(1)
    estimator.estimate(blocks, images, labels)
    return blocks[0].body[-1].shift.grad


def jacobians(blocks, images):
    """dh_1 / dh_0 of every sample, ``(batch, 2, 4)``."""
    h = blocks[0].body(images)
    return ((blocks[1].body(h) > 0).unsqueeze(2) * blocks[1].body[0].weight).detach()


def test_on_a_linear_layer_and_a_relu_it_is_the_transposed_weight_times_masked_noise():
    blocks = linear_and_relu(5)
    images, labels = torch.randn(5, 3, dtype=torch.float64), torch.arange(5) % 3
    found = estimates(blocks, images, labels, "one")
    torch.manual_seed(1)
    xi = torch.randn(5, 2, dtype=torch.float64)
    mask = jacobians(blocks, images).any(2)
    assert 0 < mask.sum() < mask.numel()
    assert_close(found, ((mask * xi) @ blocks[1].body[0].weight).detach())


def test_its_estimates_by_inner_products_are_biased_by_the_jacobian():
    """The mean over samples that are all alike, each with noise of its own, is J^T J t, which is not along t."""
    blocks = linear_and_relu(SAMPLES)
    row = torch.randn(1, 3, dtype=torch.float64)
    images, labels = row.expand(SAMPLES, -1), torch.zeros(SAMPLES, dtype=torch.long)
    estimator_of(guess="exact").estimate(blocks, images, labels)
    t = blocks[0].body[-1].shift.grad[0]
    found = estimates(blocks, images, labels, "inner")
    J = jacobians(blocks, images)[0]
    assert J.any(1).all()
    expected = J.T @ (J @ t)
    deviation = found.std(0) / SAMPLES**0.5
    assert ((found.mean(0) - expected).abs() < 5 * deviation).all()
    assert ((found.mean(0) - t).abs() > 5 * deviation).any()
