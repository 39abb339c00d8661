"""The example of feedback for late blocks, or in late epochs, alone."""

from itertools import product

import lightning as L
import pytest
import torch
from definition import Definition
from helpers import (
    assert_all_close,
    assert_same_gradients,
    body_gradients,
    gradients,
    module_of,
    tapped_blocks,
    uncoupled_blocks,
)
from late_feedback import LateBlocksTarget, LateFeedback
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from fglight.errors import BlockError
from fglight.estimators import (
    ActivityPerturbation,
    ExactGuess,
    FiniteDifferences,
    ForwardMode,
    FrozenGuess,
    GlobalTarget,
    GradientEstimator,
    LocalGuess,
    LocalTarget,
    ReverseMode,
    Target,
    WeightPerSamplePerturbation,
    WeightPerturbation,
)
from fglight.models import Block, BlockNetwork

ENGINES = {ReverseMode: 1e-9, ForwardMode: 1e-9, FiniteDifferences: 1e-5}
"""With how close each comes to the definition."""

PERTURBATIONS = (WeightPerturbation, ActivityPerturbation, WeightPerSamplePerturbation)


def estimated(target, perturbation):
    blocks, batch = tapped_blocks()
    GradientEstimator(target, LocalGuess(), perturbation()).estimate(blocks, *batch)
    return gradients(blocks)


@pytest.mark.parametrize("perturbation", PERTURBATIONS)
@pytest.mark.parametrize("first", [0, 1, 2, 3])
def test_late_blocks_get_feedback_and_early_ones_learn_locally(first, perturbation):
    actual = estimated(LateBlocksTarget(first), perturbation)
    wholly = {target: estimated(target(), perturbation) for target in (GlobalTarget, LocalTarget)}
    number = {name: int(name.partition(".")[0]) for name in actual}
    expected = {name: wholly[GlobalTarget if number[name] >= first else LocalTarget][name] for name in actual}
    assert_same_gradients(actual, expected)
    apart = {
        number[name]
        for name, gradient in wholly[GlobalTarget].items()
        if not torch.equal(gradient, wholly[LocalTarget][name])
    }
    assert apart == {0, 1, 2}


class Zigzag(Target):
    """Follows losses whose cotangents cross each other's blocks."""

    uses_auxiliaries = True

    def loss_block(self, j, last):
        return (last - 1, 1, last)[j]


@pytest.mark.parametrize(
    ("engine", "granularity"),
    [*product(ENGINES, ("tensor", "network")), (ReverseMode, "filter"), (ForwardMode, "filter")],
)
@pytest.mark.parametrize("target", [LateBlocksTarget(1), LateBlocksTarget(2), Zigzag()])
def test_every_engine_reads_the_same_target(target, engine, granularity):
    blocks, batch = uncoupled_blocks()
    blocks = [*blocks[:2], *blocks[3:]]
    estimator = GradientEstimator(target, LocalGuess(), WeightPerturbation(granularity), engine=engine())
    estimator.estimate(blocks, *batch)
    expected = Definition(blocks, *batch).estimates(target, "weight", granularity)
    assert_all_close(body_gradients(blocks), expected, ENGINES[engine])


@pytest.mark.parametrize("compiled", [False, True])
def test_a_target_may_be_replaced_between_steps(compiled):
    blocks, batch = tapped_blocks()
    estimator = GradientEstimator(GlobalTarget(), LocalGuess(), WeightPerturbation())
    if compiled:
        estimator.compile(lambda graph, inputs: graph)
    for target in (GlobalTarget(), LateBlocksTarget(2), LocalTarget()):
        estimator.target = target
        for _ in range(3):
            estimator.estimate(blocks, *batch)
            assert_same_gradients(gradients(blocks), estimated(target, WeightPerturbation))
    estimator.target = late = LateBlocksTarget(1)
    for first in (1, 1, 1, 3, 3):
        late.first = first
        estimator.estimate(blocks, *batch)
        assert_same_gradients(gradients(blocks), estimated(LateBlocksTarget(first), WeightPerturbation))


@pytest.mark.parametrize("compiled", [False, True])
def test_a_guess_may_be_replaced_between_steps_by_one_that_does_not_project(compiled):
    blocks, batch = tapped_blocks()
    estimator = GradientEstimator(GlobalTarget(), ExactGuess(), WeightPerturbation())
    if compiled:
        estimator.compile(lambda graph, inputs: graph)
    for guess in (ExactGuess(), LocalGuess(), FrozenGuess(), ExactGuess()):
        estimator.guess = guess
        fresh, _ = tapped_blocks()
        GradientEstimator(GlobalTarget(), guess, WeightPerturbation()).estimate(fresh, *batch)
        for _ in range(3):
            estimator.estimate(blocks, *batch)
            assert_same_gradients(gradients(blocks), gradients(fresh))


@pytest.mark.parametrize(
    ("loss_block", "uses_auxiliaries", "said"),
    [
        (lambda self, j, last: j - 1, True, r"Wrong.loss_block\(0, 3\) must be a block from 0 to 3, got -1"),
        (lambda self, j, last: last + 1, True, "must be a block from 0 to 3, got 4"),
        (lambda self, j, last: j, False, "Wrong.uses_auxiliaries must be true, since block 0 follows"),
    ],
)
def test_a_target_that_means_nothing_is_refused(loss_block, uses_auxiliaries, said):
    target = type("Wrong", (Target,), {"loss_block": loss_block, "uses_auxiliaries": uses_auxiliaries})()
    with pytest.raises(BlockError, match=said):
        estimated(target, WeightPerturbation)


def trained(folder, target, *callbacks):
    torch.manual_seed(0)
    bodies = [nn.Sequential(nn.Linear(6, 6), nn.Tanh()) for _ in range(3)]
    model = BlockNetwork([Block(body, nn.Linear(6, 4)) for body in bodies]).double()
    module = module_of(model, GradientEstimator(target, LocalGuess(), WeightPerturbation()), lr=0.5)
    data = DataLoader(TensorDataset(torch.randn(24, 6, dtype=torch.float64), torch.randint(4, (24,))), batch_size=8)
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False}
    trainer = L.Trainer(
        max_epochs=3,
        accelerator="cpu",
        default_root_dir=folder,
        callbacks=list(callbacks),
        enable_checkpointing=False,
        **quiet,
    )
    trainer.fit(module, data)
    return list(model.parameters())


def test_feedback_comes_with_its_epoch(tmp_path):
    late = {epoch: trained(tmp_path, GlobalTarget(), LateFeedback(epoch)) for epoch in range(4)}
    assert_all_close(late[0], trained(tmp_path, GlobalTarget()), 0)
    assert_all_close(late[3], trained(tmp_path, LocalTarget()), 0)
    assert all(not torch.equal(late[epoch][0], late[epoch + 1][0]) for epoch in range(3))
