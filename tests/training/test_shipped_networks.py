"""Whole runs of the networks beside the ResNets: their names, differences and place in the report."""

import pytest

from fglight import load_config
from fglight.report.contents import build
from fglight.training.run import train

SHORT = ("data.batch_size=8", "trainer.max_steps=1", "trainer.limit_val_batches=1", "trainer.accelerator=cpu")
QUIET = ("logger.mode=disabled", "trainer.enable_progress_bar=false")
RUNS = {
    "vit": ["engine=forward"],
    "convnext": ["perturb=activity"],
    "mlp": ["aux=linear"],
    "mobilenet_v2": ["model.network=mobilenet_v2", "model.cuts=[2,4,8]", "model.arguments.width_mult=0.1"],
}


@pytest.mark.parametrize("name", RUNS)
def test_a_run_is_no_cell_of_the_paper_s_and_in_the_report(name, tmp_path):
    choice = name if name != "mobilenet_v2" else "torchvision"
    written = train(load_config([f"model={choice}", *RUNS[name], *SHORT, *QUIET]), tmp_path / "run")
    assert (written["cell"]["network"], written["cell"]["blocks"], written["cell"]["width"]) == (name, 0, 1)
    assert written["differences"]["model._target_"].startswith("fglight.models.")
    report = build([tmp_path], [3], [])
    assert not any(entry.full for table in report.tables for entry in table.entries)
    ((cell, training, _),) = report.outside
    assert cell.startswith(f"digits, {name}, local guess, ")
    assert f"model.name {choice}" in training
