"""What a sweep runs: the paper's tables row by row, filtered, moved to other data and scaled down."""

import re
from collections import Counter
from itertools import chain, permutations, product

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from planned import configured, plan

from fglight.cell import Cell
from fglight.paper import TABLES, rows
from fglight.paper.figures import FIGURES
from fglight.paper.recipes import recipe
from fglight.sweeps.jobs import Job, in_words


def runs(jobs: list[Job]) -> Counter[tuple[Cell, int]]:
    return Counter((job.cell, job.seed) for job in jobs)


@pytest.mark.parametrize("table", TABLES)
def test_a_table_is_its_rows_times_their_seeds(table):
    of_table = [row for row in rows() if row.table == table]
    jobs = plan(f"table={table}")
    assert runs(jobs) == Counter((row.cell, seed) for row in of_table for seed in range(row.seeds))
    assert {job.group for job in jobs} == {f"table{table}"}


def test_all_tables_are_476_cells_and_1550_runs_each_in_a_folder_of_its_own():
    jobs = plan("table=all")
    assert len({job.cell for job in jobs}) == 462 + 8 + 6
    assert len(jobs) == len({job.folder for job in jobs}) == 1524 + 4 * 4 + 4 + 6
    assert [job.group for job in jobs] == sorted((job.group for job in jobs), key=lambda group: int(group[5:]))


def test_table_3_has_the_random_guesses_that_its_caption_speaks_of():
    jobs = plan("table=3", "guess=gaussian,rademacher")
    seeds = Counter((job.cell.data, job.cell.guess, job.cell.perturb) for job in jobs)
    cells = product(("gaussian", "rademacher"), ("activity", "weight"))
    assert seeds == {(data, *cell): count for cell in cells for data, count in (("cifar10", 4), ("imagenet32", 1))}


def test_planned_runs_are_trained_by_the_recipe_of_their_cell():
    for row in rows()[::23]:
        job = next(job for job in plan(f"table={row.table}") if job.cell == row.cell)
        cfg = configured(job.overrides)
        assert Cell.from_config(cfg) == row.cell
        how = recipe(row.cell)
        assert (cfg.optim.lr, cfg.scheduler.step_size, cfg.scheduler.gamma) == (how.lr, how.lr_step, how.lr_gamma)
        assert cfg.trainer.max_epochs == how.epochs


def test_a_cell_has_one_folder_whatever_table_or_figure_asks_for_it():
    folders = {job.folder for job in plan("table=3")}
    shared = {job.folder for job in plan("figure=5")} & folders
    assert len(shared) == 3 * 4
    assert {job.folder for job in plan("table=3", "figure=5")} == folders


@pytest.mark.parametrize("figure", FIGURES)
def test_a_figure_has_its_curves_with_the_probes_they_need(figure):
    jobs = plan(f"figure={figure}", "seed=0")
    curves = FIGURES[figure].curves
    assert [job.cell for job in jobs] == [curve.cell for curve in curves]
    for job, curve in zip(jobs, curves):
        settings = {"probe": "true", "aux": curve.probe} if curve.probe else {}
        assert dict(job.settings) == settings
        configured(job.overrides)


@pytest.mark.parametrize(
    ("overrides", "keeps"),
    [
        (["guess=local"], lambda cell: cell.guess == "local"),
        (
            ["guess=local,ntk", "perturb=weight"],
            lambda cell: cell.guess in ("local", "ntk") and cell.perturb == "weight",
        ),
        (["aux=cnn,mlp"], lambda cell: cell.aux in ("cnn", "mlp")),
        (["data=imagenet32"], lambda cell: cell.data == "imagenet32"),
        (["blocks=8"], lambda cell: cell.blocks == 8),
        (["model=resnet18_16"], lambda cell: cell.blocks == 16),
        (["target=global", "guess=exact"], lambda cell: cell.guess == "exact"),
    ],
)
def test_filters_keep_the_cells_they_name(overrides, keeps):
    kept = [row for row in rows() if row.table in (2, 3) and keeps(row.cell)]
    assert runs(plan("table=2,3", *overrides)) == Counter((row.cell, seed) for row in kept for seed in range(row.seeds))


def test_number_of_seeds_and_their_names():
    assert {job.seed for job in plan("table=3", "seeds=2")} == {0, 1}
    assert {job.seed for job in plan("table=3", "seed=5,7")} == {5, 7}


def test_other_data_takes_the_paper_s_place_and_duplicates_run_once():
    jobs = plan("table=3", "data=digits")
    cells = {job.cell for job in jobs}
    assert {cell.data for cell in cells} == {"digits"}
    assert len(cells) == 17  # 34 rows on two data sets
    assert len(jobs) == 17 * 4
    cfg = configured(jobs[0].overrides)
    assert (cfg.data.num_classes, cfg.data.in_channels, cfg.trainer.max_epochs) == (10, 1, recipe(jobs[0].cell).epochs)
    assert {job.cell.data for job in plan("table=3", "data=digits,fashion_mnist")} == {"digits", "fashion_mnist"}


@pytest.mark.parametrize(("epochs", "lr_step"), [(3, 1), (10, 3), (50, 15), (200, 60), (1, 1)])
def test_the_schedule_shrinks_with_the_epochs(epochs, lr_step):
    (job,) = plan("table=3", "data=cifar10", "guess=exact", "seeds=1", f"trainer.max_epochs={epochs}")
    cfg = configured(job.overrides)
    assert (cfg.trainer.max_epochs, cfg.scheduler.step_size, cfg.scheduler.gamma) == (epochs, lr_step, 0.2)


def test_a_schedule_that_is_given_is_kept():
    (job,) = plan("table=3", "data=cifar10", "guess=exact", "seeds=1", "trainer.max_epochs=10", "scheduler.step_size=7")
    assert configured(job.overrides).scheduler.step_size == 7


def test_a_width_scales_every_cell_s_own():
    widths = {job.cell.width for job in plan("table=8", "model.width=0.125", "seeds=1")}
    assert widths == {0.0625, 0.25, 0.5}


def test_scaled_down_runs_have_folders_of_their_own():
    full = {job.folder for job in plan("table=3")}
    for change in ("trainer.max_epochs=3", "model.width=0.5", "data=digits", "perturb.granularity=block"):
        assert full.isdisjoint(job.folder for job in plan("table=3", change)), change
    long = plan("table=3", *(f"data.std=[{'0.25,' * 50}0.25]" for _ in range(1)))
    assert max(len(part) for job in long for part in job.folder.parts) < 100
    assert full.isdisjoint(job.folder for job in long)


def test_folders_are_the_same_in_whatever_order_settings_are_given():
    settings = ("trainer.max_epochs=3", "optim.momentum=0.5", "data=digits")
    one, *others = ({job.folder for job in plan("table=3", *order)} for order in permutations(settings))
    assert all(other == one for other in others)
    job, other = (plan("table=3", "guess=exact", "seeds=1", *order)[0] for order in (settings, settings[::-1]))
    assert job.with_settings({"optim.lr": "1", "aux.depth": "1"}) == other.with_settings(
        {"aux.depth": "1", "optim.lr": "1"}
    )
    assert job.with_settings({"optim.lr": "1"}).folder == job.with_settings({"optim.lr": "1"}).with_settings({}).folder


@pytest.mark.parametrize("settings", [{"data.std": "[1, 2]"}, {f"optim.setting{number}": "1" for number in range(9)}])
def test_settings_that_make_no_good_name_of_a_folder_are_told_by_their_hash(settings):
    (job,) = plan("table=3", "data=cifar10", "guess=exact", "seeds=1")
    names = {job.with_settings(settings).name, job.with_settings(settings | {"optim.lr": "1"}).name}
    assert len(names) == 2
    assert all(re.fullmatch(rf"{job.cell}_[0-9a-f]{{12}}", name) for name in names)
    assert job.with_settings({"optim.lr": "1e-3"}).name == f"{job.cell}_optim.lr=1e-3"


def test_what_a_cell_makes_no_use_of_is_not_told():
    (job,) = plan("table=3", "data=cifar10", "guess=exact", "seeds=1")
    defaults = {"aux.depth": 1, "perturb.granularity": "block", "probe": True}
    assert job.with_short_name(defaults).folder == job.folder
    assert job.with_short_name(defaults | {"clip_norm": 1.0}).name == f"{job.cell}_clip_norm=1.0"


def test_settings_that_change_no_result_change_no_folder():
    watched = plan("table=3", "logger.mode=disabled", "trainer.enable_progress_bar=false", "data.root=/data")
    assert [job.folder for job in watched] == [job.folder for job in plan("table=3")]
    assert "logger.mode=disabled" in watched[0].overrides


def test_several_values_of_another_setting_are_several_runs():
    jobs = plan("table=3", "guess=exact", "data=cifar10", "seeds=1", "optim.momentum=0,0.9")
    assert [dict(job.settings)["optim.momentum"] for job in jobs] == ["0", "0.9"]


def test_every_override_of_every_planned_run_is_one_that_hydra_reads():
    jobs = chain(plan("figure=all"), plan("search=aux_size"), plan("table=8,9", "trainer.max_epochs=3", "seeds=1"))
    OverridesParser.create().parse_overrides([override for job in jobs for override in job.overrides])


def test_what_an_override_asks_for_is_told_as_before_beside_other_defaults():
    (job,) = plan("table=3", "data=cifar10", "guess=exact", "seeds=1", "optim.momentum=0.5", "trainer.max_epochs=10")
    departing = {"optim.momentum": 0.5, "trainer.max_epochs": 10, "scheduler.step_size": 3, "clip_norm": 1.0}
    assert job.unasked(departing) == {"clip_norm": "1.0"}
    assert job.with_short_name(departing).name.endswith("_clip_norm=1.0,optim.momentum=0.5,trainer.max_epochs=10")


def test_estimators_whose_runs_differ_tell_how():
    asked = ("study=controls", "guess=frozen", "seeds=1", "optim.lr=0.1,0.2")
    title, words = in_words(plan(*asked, "data=digits,cifar10", "optim.momentum=0,0.9"))
    assert title == "model.width=1"
    own = product(("digits", "cifar10"), ("0", "0.9"))
    assert set(words.values()) == {f"Frozen blocks, {data}, optim.momentum={momentum}" for data, momentum in own}
    jobs = plan("table=3", "seeds=1")
    assert in_words(jobs) == ("", {job.name: job.name for job in jobs})


def test_another_schedule_has_no_step_size():
    jobs = plan("table=3", "guess=exact", "data=cifar10", "seeds=1", "trainer.max_epochs=10", "scheduler=cosine")
    (cfg,) = (configured(job.overrides) for job in jobs)
    assert (cfg.scheduler.name, cfg.scheduler.T_max) == ("cosine", 10)
    searched = plan("search=lr", "table=3", "guess=exact", "data=imagenet32", "seeds=1", "scheduler=cosine")
    assert len(searched) == 6
    assert all(configured(job.overrides).scheduler.name == "cosine" for job in searched)
