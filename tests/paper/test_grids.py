"""The searches have the paper's grids."""

from collections import Counter

import pytest
from planned import configured, plan

from fglight.paper import rows
from fglight.paper.grids import schedules
from fglight.paper.recipes import recipe


def test_the_search_for_learning_rates_has_the_paper_s_grids_and_leaves_the_test_set_alone():
    jobs = plan("search=lr", "table=3", "guess=exact", "seeds=1")
    grids = {data: [] for data in ("cifar10", "imagenet32")}
    for job in jobs:
        cfg = configured(job.overrides)
        grids[job.cell.data].append((cfg.optim.lr, cfg.scheduler.step_size))
        assert cfg.data.holdout > 0
    assert grids == {
        "cifar10": [(0.05, 30), (0.01, 30), (0.005, 30)],
        "imagenet32": [(rate, step) for rate in (0.1, 0.05, 0.01, 0.005, 0.001, 0.0001) for step in (20, 30)],
    }


def test_what_the_paper_chose_is_in_the_grid_that_it_searched():
    for row in rows():
        grid = [{name: float(value) for name, value in point.items()} for point in schedules(row.cell)]
        how = recipe(row.cell)
        assert {"optim.lr": how.lr, "scheduler.step_size": how.lr_step} in grid, row


@pytest.mark.parametrize(
    ("overrides", "grid"),
    [
        (["optim.lr=0.2"], [("0.2", "20"), ("0.2", "30")]),
        (["optim.lr=0.2", "scheduler.step_size=5,6"], [("0.2", "5"), ("0.2", "6")]),
        (["optim.lr=0.2", "trainer.max_epochs=35"], [("0.2", "10"), ("0.2", "15")]),
        (["optim.lr=0.2", "trainer.max_epochs=2"], [("0.2", "1")]),
        (["optim.lr=0.2", "trainer.max_epochs=2", "scheduler.step_size=20"], [("0.2", "20")]),
    ],
)
def test_a_search_has_the_axes_given_and_shrinks_the_others(overrides, grid):
    jobs = plan("search=lr", "table=3", "guess=exact", "data=imagenet32", *overrides)
    assert [(dict(job.settings)["optim.lr"], dict(job.settings)["scheduler.step_size"]) for job in jobs] == grid
    for job in jobs:
        assert str(configured(job.overrides).scheduler.step_size) == dict(job.settings)["scheduler.step_size"]


def test_the_search_for_auxiliary_sizes():
    jobs = plan("search=aux_size")
    assert Counter(job.cell.aux for job in jobs) == {"mlp": 8 * 7, "cnn": 8 * 5}
    cfg = configured(jobs[0].overrides)
    assert (cfg.target.name, cfg.guess.name, cfg.model.blocks, cfg.data.name) == ("local", "exact", 8, "cifar10")
    assert (cfg.optim.lr, cfg.scheduler.step_size, cfg.scheduler.gamma) == (0.1, 30, 0.2)
    assert (cfg.data.batch_size, cfg.trainer.max_epochs) == (256, 90)
    assert cfg.data.holdout > 0
    scaled = plan("search=aux_size", "aux=cnn", "trainer.max_epochs=9", "model.width=0.5")
    cfg = configured(scaled[-1].overrides)
    assert (cfg.scheduler.step_size, cfg.aux.hidden, cfg.aux.depth) == (3, 32, 8)
