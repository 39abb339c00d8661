"""How many of the last blocks take the exact gradient: one, several, or none, which is MeZO by finite differences."""

import pytest
import torch
from helpers import assert_close, assert_same_gradients, estimator_of, gradients, uncoupled_blocks
from torch import nn

from fglight.errors import LabelError
from fglight.estimators import (
    FiniteDifferences,
    ForwardMode,
    GaussianGuess,
    GlobalTarget,
    GradientEstimator,
    WeightPerturbation,
)
from fglight.models import Block, BlockNetwork, ErrorRate, exact_blocks

ENGINES = (None, ForwardMode(), FiniteDifferences(1e-5))


def network():
    """A smooth network of five blocks, and a batch."""
    blocks, batch = uncoupled_blocks()
    return BlockNetwork(blocks), batch


def exact(model, batch):
    """The gradient of the loss by plain autograd, by the parameters."""
    parameters = list(model.parameters())
    loss = nn.functional.cross_entropy(model(batch[0]), batch[1])
    return dict(zip(parameters, torch.autograd.grad(loss, parameters, allow_unused=True)))


@pytest.mark.parametrize("count", range(6))
def test_it_is_the_same_network_whose_last_blocks_take_the_exact_gradient(count):
    model, batch = network()
    own = [[*block.body.parameters()] for block in model.blocks] + [[*model.blocks[-1].aux.parameters()]]
    cut = exact_blocks(model, count)
    assert torch.equal(cut(batch[0]), model(batch[0]))
    estimator_of(guess="gaussian", perturb="weight").estimate(cut, *batch)
    expected = exact(model, batch)
    for j, parameters in enumerate(own):
        is_exact = count > 0 and j >= len(model.blocks) - count
        for parameter in parameters:
            assert torch.allclose(parameter.grad, expected[parameter], rtol=1e-9) == is_exact


@pytest.mark.parametrize("guess", ["exact", "local"])
def test_without_exact_blocks_the_last_one_still_knows_its_gradient(guess):
    model, batch = network()
    cut = exact_blocks(model, 0)
    expected = exact(model, batch)
    estimator_of(guess=guess, perturb="weight").estimate(cut, *batch)
    for part in (model.blocks[-1].body, model.blocks[-1].aux):  # the loss behind it is its local one
        for parameter in part.parameters():
            assert_close(parameter.grad, expected[parameter])


def test_engines_agree_where_no_block_is_exact():
    found = []
    for engine in ENGINES:
        model, batch = network()
        cut = exact_blocks(model, 0)
        estimator = GradientEstimator(GlobalTarget(), GaussianGuess(), WeightPerturbation("network"), engine=engine)
        torch.manual_seed(1)
        estimator.estimate(cut, *batch)
        found.append(gradients(cut))
    assert_same_gradients(found[1], found[0])
    assert_same_gradients(found[2], found[0], 1e-5)


@pytest.mark.parametrize("redraw", [False, True])
def test_by_finite_differences_it_is_mezo(redraw):
    """Algorithm 1 of Malladi et al. 2023 (arXiv 2305.17333) in plain torch, over ten steps."""
    lr, (model, (images, labels)) = 0.05, network()
    reference, _ = network()
    cut = exact_blocks(model, 0)
    estimator = GradientEstimator(
        GlobalTarget(), GaussianGuess(), WeightPerturbation("network"), engine=FiniteDifferences(redraw=redraw)
    )
    optimizer = torch.optim.SGD(estimator.trained_parameters(cut), lr)
    # What a step trains, in the order in which it draws: the blocks', and those of the head.
    trained = [p for block in reference.blocks for p in block.body.parameters()]
    trained += list(reference.blocks[-1].aux.parameters())
    for seed in range(10):
        torch.manual_seed(seed)
        estimator.estimate(cut, images, labels)
        optimizer.step()

        def perturb(scale, seed=seed):
            torch.manual_seed(seed)
            for p in trained:
                p.data.add_(torch.randn_like(p), alpha=scale)

        losses = []
        for scale in (1e-5, -2e-5):
            perturb(scale)
            losses.append(nn.functional.cross_entropy(reference(images), labels).item())
        perturb(1e-5)
        perturb(-lr * (losses[0] - losses[1]) / 2e-5)
    moved = [p for block in model.blocks for p in block.body.parameters()] + list(model.blocks[-1].aux.parameters())
    for mine, other in zip(moved, trained):
        assert_close(mine.detach(), other.detach(), 1e-6)


def test_any_number_can_be_the_loss_of_finite_differences():
    model, batch = network()
    model.use_loss(ErrorRate())
    cut = exact_blocks(model, 0)
    for engine, needs in ((FiniteDifferences(0.5), False), (ForwardMode(), True), (None, True)):
        estimator = GradientEstimator(GlobalTarget(), GaussianGuess(4), WeightPerturbation("network"), engine=engine)
        torch.manual_seed(0)
        if needs:
            with pytest.raises(LabelError, match="ErrorRate has none: use engine=finite with exact_blocks=0"):
                estimator.estimate(cut, *batch)
        else:
            wrong = (model(batch[0]).argmax(1) != batch[1]).double().mean()
            assert estimator.estimate(cut, *batch).loss == wrong
            assert any(p.grad.abs().sum() > 0 for p in model.blocks[0].body.parameters())


def test_what_cannot_be_is_told():
    model, _ = network()
    with pytest.raises(ValueError, match="exact_blocks must be from 0 to the network's 5 blocks, got 6"):
        exact_blocks(model, 6)
    head = nn.Linear(3, 3)
    head.loss = lambda h, labels: (h.sum(), h)
    with pytest.raises(ValueError, match="exact_blocks must be 1 or more with a head that has a loss of its own"):
        exact_blocks(BlockNetwork([Block(nn.Linear(3, 3), head)]), 0)
