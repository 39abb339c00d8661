"""Random mixtures of the batch's activities."""

import torch
from helpers import assert_close, estimator_of, tapped_blocks
from torch import nn

from fglight.models import Block


def mixed(batch=5):
    """g_0 of ``tapped_blocks`` and h_0, ``(batch, features)`` both: with a coefficient of one, g_0 is the estimate."""
    blocks, data = tapped_blocks(batch)
    estimator_of({"perturb.coefficient": "one"}, guess="mixing", perturb="activity").estimate(blocks, *data)
    return blocks[0].body[-1].shift.grad.flatten(1), blocks[0].body(data[0]).detach().flatten(1)


def test_directions_are_zero_exactly_where_activities_are():
    g, h = mixed()
    assert 0.2 < (h == 0).double().mean() < 0.8  # behind a ReLU
    assert torch.equal(g == 0, h == 0)


def test_all_samples_have_one_mixture_which_is_in_the_span_of_their_activities():
    g, h = mixed()
    where = (h != 0).any(0)
    mixture = (g.sum(0) / (g != 0).sum(0))[where]
    assert_close(g[:, where], mixture * (h != 0)[:, where])
    assert_close((h.T @ torch.linalg.lstsq(h.T[where], mixture).solution)[where], mixture)


def test_its_estimates_by_inner_products_are_biased_by_the_activities():
    """The mean over many directions is H^T H t for activities H, ``(batch, features)``, none of which is zero."""
    torch.manual_seed(0)
    blocks = [Block(nn.Sequential(nn.Linear(3, 4), nn.Tanh()), nn.Identity()), Block(nn.Linear(4, 2), nn.Identity())]
    blocks = [block.double() for block in blocks]
    images, labels = torch.randn(3, 3, dtype=torch.float64), torch.arange(3) % 2
    h = blocks[0].body(images).detach()
    settings = {"perturb.coefficient": "inner", "guess.directions": 200}
    estimator = estimator_of(settings, guess="mixing", perturb="activity")
    draws = []
    for _ in range(20):
        estimator.estimate(blocks, images, labels)
        draws.append(blocks[0].body[0].bias.grad)  # of an estimate (batch, 4) at h, the sum over samples before tanh
    e = (blocks[1].aux(blocks[1].body(h)).softmax(1) - nn.functional.one_hot(labels, 2)) / 3
    t = (e @ blocks[1].body.weight).detach()
    mean, deviation = torch.stack(draws).mean(0), torch.stack(draws).std(0) / len(draws) ** 0.5
    assert ((mean - (t @ h.T @ h * (1 - h**2)).sum(0)).abs() < 5 * deviation).all()
    assert ((mean - (t * (1 - h**2)).sum(0)).abs() > 5 * deviation).any()
