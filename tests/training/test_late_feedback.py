"""The example of feedback for late blocks, or in late epochs, alone."""

import lightning as L
import pytest
import torch
from helpers import assert_all_close, assert_same_gradients, gradients, module_of, tapped_blocks
from late_feedback import LateBlocksTarget, LateFeedback
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from fglight.estimators import (
    ActivityPerturbation,
    GlobalTarget,
    GradientEstimator,
    LocalGuess,
    LocalTarget,
    WeightPerSamplePerturbation,
    WeightPerturbation,
)
from fglight.models import Block, BlockNetwork

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
