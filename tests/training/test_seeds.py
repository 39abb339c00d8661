"""Checkpoints that hold seeds and scalars in place of weights."""

import pytest
import torch

from fglight import load_config
from fglight.errors import ConfigError
from fglight.runs.folder import CHECKPOINT
from fglight.training.checkpoint import read_checkpoint
from fglight.training.run import train

MEZO = ["engine=finite", "guess=gaussian", "perturb=weight", "exact_blocks=0", "cosine=false", "logger.mode=disabled"]
SMALL = ["model.width=0.0625", "model.blocks=8", "trainer.precision=64-true", "data.train_images=256", "optim.lr=1e-3"]


def run(folder, epochs, *settings):
    fixed = [*MEZO, *SMALL, "trainer.enable_progress_bar=false", f"trainer.max_epochs={epochs}"]
    return train(load_config([*fixed, *settings]), folder)


@pytest.mark.parametrize(
    "settings",
    [
        ["perturb.granularity=network", "engine.redraw=true"],
        ["perturb.granularity=network", "optim.momentum=0.9", "scheduler.warmup=4"],
        ["perturb.granularity=tensor", "guess=rademacher"],
    ],
    ids=["network", "momentum", "tensor"],
)
def test_a_run_goes_on_from_its_seeds_as_it_would_have_without_a_stop(settings, tmp_path):
    run(tmp_path / "whole", 2, *settings)
    run(tmp_path / "parts", 1, "checkpoint=seeds", *settings)
    part = read_checkpoint(tmp_path / "parts")
    assert not any("weight" in name for name in part["state_dict"])
    assert (tmp_path / "parts" / CHECKPOINT).stat().st_size < (tmp_path / "whole" / CHECKPOINT).stat().st_size / 3
    parts = run(tmp_path / "parts", 2, "checkpoint=seeds", *settings)
    assert parts["steps"] == 4
    whole = read_checkpoint(tmp_path / "whole")["callbacks"]
    again = read_checkpoint(tmp_path / "parts")["callbacks"]
    losses = [kept["metrics"]["train/loss"] for found in (whole, again) for kept in found.values() if "metrics" in kept]
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-9, atol=0)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (["engine=reverse"], "checkpoint=seeds must go with engine=finite"),
        (["exact_blocks=1"], "checkpoint=seeds must go with exact_blocks=0"),
        (["guess=ntk"], "checkpoint=seeds must go with a guess that is drawn"),
        (["perturb.coefficient=stale:5"], "checkpoint=seeds must go with a coefficient that keeps nothing"),
        (["clip_norm=1"], "checkpoint=seeds must go with clip_norm=null"),
    ],
)
def test_what_seeds_do_not_tell(settings, said, tmp_path):
    with pytest.raises(ConfigError, match=said):
        run(tmp_path, 1, "perturb.granularity=network", "checkpoint=seeds", *settings)
