"""What a sweep runs: the paper's tables row by row, filtered, moved to other data and scaled down."""

from collections import Counter
from itertools import chain

import pytest
import yaml
from helpers import compose
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig

from fglight import load_config
from fglight.cell import Cell
from fglight.errors import ConfigError
from fglight.paper import TABLES, published
from fglight.paper.figures import FIGURES
from fglight.paper.recipes import recipe
from fglight.paper.searches import aux_sizes
from fglight.runs.folder import State
from fglight.sweeps.jobs import Job, by_name, plan_jobs
from fglight.sweeps.planning import plan as planning
from fglight.sweeps.planning import timing
from fglight.sweeps.planning.kinds import Kind, choose
from fglight.sweeps.planning.size import aux_share
from fglight.sweeps.request import Request, parse


def request(*overrides: str) -> Request | None:
    return parse(OverridesParser.create().parse_overrides(list(overrides)))


def plan(*overrides: str) -> list[Job]:
    asked = request(*overrides)
    assert asked is not None
    return plan_jobs(asked)


def runs(jobs: list[Job]) -> Counter[tuple[Cell, int]]:
    return Counter((job.cell, job.seed) for job in jobs)


@pytest.mark.parametrize("table", TABLES)
def test_a_table_is_its_rows_times_their_seeds(table):
    rows = [row for row in published() if row.table == table]
    jobs = plan(f"table={table}")
    assert runs(jobs) == Counter((row.cell, seed) for row in rows for seed in range(row.seeds))
    assert {job.group for job in jobs} == {f"table{table}"}


def test_all_tables_are_462_cells_and_1524_runs_each_in_a_folder_of_its_own():
    jobs = plan("table=all")
    assert len({job.cell for job in jobs}) == 462
    assert len(jobs) == len({job.folder for job in jobs}) == 1524


def test_planned_runs_are_trained_as_their_row_says():
    for row in published()[::23]:
        job = next(job for job in plan(f"table={row.table}") if job.cell == row.cell)
        cfg = load_config(job.overrides)
        assert Cell.from_config(cfg) == row.cell
        assert (cfg.optim.lr, cfg.optim.lr_step, cfg.optim.lr_gamma) == (row.lr, row.lr_step, row.lr_gamma)
        assert cfg.trainer.max_epochs == row.epochs


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
        settings = {"probe": "true", "aux": curve.probe_aux} if curve.probe else {}
        assert dict(job.settings) == settings
        load_config(job.overrides)


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
    rows = [row for row in published() if row.table in (2, 3) and keeps(row.cell)]
    assert runs(plan("table=2,3", *overrides)) == Counter((row.cell, seed) for row in rows for seed in range(row.seeds))


def test_number_of_seeds_and_their_names():
    assert {job.seed for job in plan("table=3", "seeds=2")} == {0, 1}
    assert {job.seed for job in plan("table=3", "seed=5,7")} == {5, 7}


def test_other_data_takes_the_paper_s_place_and_duplicates_run_once():
    jobs = plan("table=3", "data=digits")
    cells = {job.cell for job in jobs}
    assert {cell.data for cell in cells} == {"digits"}
    assert len(cells) == 13  # 26 rows on two data sets
    assert len(jobs) == 13 * 4
    cfg = load_config(jobs[0].overrides)
    assert (cfg.data.num_classes, cfg.data.in_channels, cfg.trainer.max_epochs) == (10, 1, recipe(jobs[0].cell).epochs)
    assert {job.cell.data for job in plan("table=3", "data=digits,fashion_mnist")} == {"digits", "fashion_mnist"}


@pytest.mark.parametrize(("epochs", "lr_step"), [(3, 1), (10, 3), (50, 15), (200, 60), (1, 1)])
def test_the_schedule_shrinks_with_the_epochs(epochs, lr_step):
    (job,) = plan("table=3", "data=cifar10", "guess=exact", "seeds=1", f"trainer.max_epochs={epochs}")
    cfg = load_config(job.overrides)
    assert (cfg.trainer.max_epochs, cfg.optim.lr_step, cfg.optim.lr_gamma) == (epochs, lr_step, 0.2)


def test_a_schedule_that_is_given_is_kept():
    (job,) = plan("table=3", "data=cifar10", "guess=exact", "seeds=1", "trainer.max_epochs=10", "optim.lr_step=7")
    assert load_config(job.overrides).optim.lr_step == 7


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


def test_settings_that_change_no_result_change_no_folder():
    watched = plan("table=3", "logger.mode=disabled", "trainer.enable_progress_bar=false", "data.root=/data")
    assert [job.folder for job in watched] == [job.folder for job in plan("table=3")]
    assert "logger.mode=disabled" in watched[0].overrides


def test_several_values_of_another_setting_are_several_runs():
    jobs = plan("table=3", "guess=exact", "data=cifar10", "seeds=1", "optim.momentum=0,0.9")
    assert [dict(job.settings)["optim.momentum"] for job in jobs] == ["0", "0.9"]


def test_the_search_for_learning_rates_has_the_paper_s_grids_and_leaves_the_test_set_alone():
    jobs = plan("search=lr", "table=3", "guess=exact", "seeds=1")
    rates = {data: [] for data in ("cifar10", "imagenet32")}
    for job in jobs:
        cfg = load_config(job.overrides)
        rates[job.cell.data].append(cfg.optim.lr)
        assert cfg.data.holdout > 0
    assert rates == {"cifar10": [0.05, 0.01, 0.005], "imagenet32": [0.1, 0.05, 0.01, 0.005, 0.0001]}


def test_the_search_for_auxiliary_sizes():
    jobs = plan("search=aux_size")
    assert Counter(job.cell.aux for job in jobs) == {"mlp": 8 * 7, "cnn": 8 * 5}
    cfg = load_config(jobs[0].overrides)
    assert (cfg.target.name, cfg.guess.name, cfg.model.blocks, cfg.data.name) == ("local", "exact", 8, "cifar10")
    assert (cfg.optim.lr, cfg.optim.lr_step, cfg.optim.lr_gamma) == (0.1, 30, 0.2)
    assert (cfg.data.batch_size, cfg.trainer.max_epochs) == (256, 90)
    assert cfg.data.holdout > 0
    scaled = plan("search=aux_size", "aux=cnn", "trainer.max_epochs=9", "model.width=0.5")
    cfg = load_config(scaled[-1].overrides)
    assert (cfg.optim.lr_step, cfg.aux.hidden, cfg.aux.depth) == (3, 32, 8)


def test_the_sizes_that_the_paper_chose_cost_less_than_a_tenth():
    for cell, settings in aux_sizes():
        chosen = {"mlp": "1024", "cnn": "32"}[cell.aux]
        if settings["aux.depth"] == "3" and settings["aux.hidden"] in (chosen, str(4 * int(chosen))):
            sizes = [f"aux={cell.aux}", "aux.depth=3", f"aux.hidden={settings['aux.hidden']}", "data=cifar10"]
            share = aux_share(load_config(["target=local", "guess=exact", *sizes]))
            assert (share < 0.1) == (settings["aux.hidden"] == chosen)


def test_without_table_figure_or_search_it_is_an_ordinary_sweep():
    assert request("guess=local,ntk", "seed=0,1") is None
    assert request("table=null", "guess=local") is None


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["table=1"], ["table=1", "2 to 12"]),
        (["table=3,13"], ["table=13", "2 to 12"]),
        (["table=three"], ["table=three", "2 to 12"]),
        (["figure=1"], ["figure=1", "2 to 9"]),
        (["search=depth"], ["search=depth", "lr, aux_size"]),
        (["search=lr"], ["search=lr", "table="]),
        (["search=aux_size", "table=3"], ["search=aux_size"]),
        (["table=3", "seeds=0"], ["seeds=0", "1 on"]),
        (["table=3", "seeds=many"], ["seeds=many", "1 on"]),
        (["table=3", "seeds=2", "seed=1"], ["seed", "seeds"]),
        (["table=3", "guess=gaussian"], ["Table 3", "guess=gaussian", "exact, local, ntk"]),
        (["table=3", "guess=exact", "aux=cnn"], ["guess=exact and aux=cnn"]),
        (["table=3", "blocks=4"], ["blocks=4", "accepted is blocks=8"]),
        (["table=3", "model.width=0"], ["model.width=0"]),
        (["table=3", "trainer.max_epochs=few"], ["trainer.max_epochs=few"]),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(overrides, words):
    with pytest.raises(ConfigError) as error:
        plan(*overrides)
    assert "\n" not in str(error.value)
    for word in words:
        assert word in str(error.value)


def test_every_override_of_every_planned_run_is_one_that_hydra_reads():
    jobs = chain(plan("figure=all"), plan("search=aux_size"), plan("table=8,9", "trainer.max_epochs=3", "seeds=1"))
    OverridesParser.create().parse_overrides([override for job in jobs for override in job.overrides])


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        ([9, 1, 4, 0.8], (0.5, 0.1)),  # every image takes its time
        ([9, 1, 1.6, 0.8], (0.1 + 0.8 / 128, 0.1)),  # and every step some of its own
        ([9, 5, 3, 0.8], (3 / 128, 0.1)),  # the machine was busy during the smaller batch
        ([9, 0.2, 0.05, 0.29, 0.2, 0.1, 0.04], (3.2 / 128, 0.005)),  # short steps are measured twice
        ([9, 0.01, 0.01, 0.016, 0.016, 9, 9, 12.8, 6.4], (0.1, 0.05)),  # whole batches are fast enough to be measured
    ],
)
def test_the_time_of_an_image_is_measured_by_few_or_by_whole_batches(steps, expected, monkeypatch):
    times = iter(steps)
    monkeypatch.setattr(timing, "_seconds", lambda step, device: next(times))
    cfg = load_config(["model.width=0.015625", "trainer.accelerator=cpu"])
    measured = timing.seconds_per_image(cfg, steps=2)
    assert measured == pytest.approx(expected)
    assert not list(times)


def configs_of(*overrides: str) -> dict[str, DictConfig]:
    """The configuration of each cell that is planned."""
    configs = {}
    for name, (job, *_) in by_name(plan(*overrides)).items():
        cell = job.cell
        chosen = {
            key: getattr(cell, key) for key in ("data", "target", "guess", "aux", "perturb") if getattr(cell, key)
        }
        settings = {"model.width": cell.width, **{key: yaml.safe_load(value) for key, value in job.settings}}
        configs[name] = compose(settings, **chosen, model=f"resnet18_{cell.blocks}")
    return configs


def cost(cfg: DictConfig) -> tuple[float, float]:
    """Times as they would be if each part of a cell had a factor of its own."""
    guess = {"exact": 1.0, "local": 1.5, "ntk": 1.6, "fixed_ntk": 1.4, "gaussian": 1.1, "rademacher": 1.2}[
        cfg.guess.name
    ]
    aux = {"cnn": 1.1, "mlp": 1.3, "linear": 1.0, "predsim": 1.2}[cfg.aux.name]
    target = {"global": 1.0, "local": 0.9, "intermediate": 1.3}[cfg.target.name]
    network = cfg.model.width**2 * cfg.data.image_size**2 * cfg.model.blocks
    by_family = {"activity": 1.0, "weight": cfg.data.image_size / 20}.get(cfg.perturb.name, 2.0)
    return network * guess * aux * target * by_family, network * aux


def test_all_tables_are_measured_by_about_half_of_their_kinds_of_cell():
    kinds = {Kind.of(cfg): cfg for cfg in configs_of("table=all").values()}
    chosen = choose(kinds)
    assert chosen.keys() == kinds.keys()
    assert len(kinds) == 372
    assert sum(scaling is None for scaling in chosen.values()) < 200
    measured = {kind: cost(kinds[kind]) for kind, scaling in chosen.items() if scaling is None}
    for kind, scaling in chosen.items():
        if scaling is not None:
            assert scaling.relative.network == kind.network
            assert scaling.here.estimator == kind.estimator
            assert scaling.relative.family == kind.family == scaling.here.family
            (width, side), (least, same) = kind.size, scaling.here.size
            assert scaling.relative.aux == kind.aux or (side == same and width >= least)
            assert scaling.seconds(measured) == pytest.approx(cost(kinds[kind]))


@pytest.mark.parametrize(
    "asked", [["table=3"], ["table=2", "data=digits"], ["table=3", "guess=local", "perturb=weight"]]
)
def test_cells_on_one_network_are_all_measured(asked):
    kinds = [Kind.of(cfg) for cfg in configs_of(*asked).values()]
    assert not any(choose(kinds).values())


def test_what_cannot_change_a_time_is_not_measured_again():
    first = compose(guess="local")
    for changed in ({"optim.lr": 0.3}, {"data.num_classes": 100}, {"data.holdout": 0.1}, {"trainer.max_epochs": 3}):
        assert Kind.of(compose(changed, guess="local")) == Kind.of(first)
    assert Kind.of(compose(guess="exact", perturb="activity")) == Kind.of(compose(guess="exact", perturb="weight"))
    for changed in ({"model.width": 0.5}, {"data.image_size": 28}, {"data.batch_size": 64}, {"aux.hidden": 3}):
        assert Kind.of(compose(changed, guess="local")) != Kind.of(first)
    assert Kind.of(compose(guess="local", engine="forward")) != Kind.of(first)


def test_a_plan_says_what_was_measured_and_how_the_rest_follows(monkeypatch, capsys):
    asked = ["table=8", "perturb=weight", "guess=local", "aux=cnn,mlp", "seeds=1"]
    configs = configs_of(*asked)
    seen = []
    monkeypatch.setattr(
        planning, "seconds_per_image", lambda cfg, steps: seen.append(steps) or (cost(cfg)[0] / 1e4, cost(cfg)[1] / 1e5)
    )
    jobs = plan(*asked)
    planning.show_plan(jobs, configs, dict.fromkeys(jobs, State.NEW))
    printed = " ".join(capsys.readouterr().out.split())
    assert seen == [3, 1, 3, 3]  # the others are scaled by the first one of each network
    assert "6 cells, 6 runs: measuring a few steps of 4 of 6 kinds of cell" in printed
    assert printed.count("~ ") == 2 + 1  # the third is in the note
    assert "the ratio of the two on resnet18_16, width 0.5, 3x32x32." in printed


def test_a_plan_of_one_network_has_no_note(monkeypatch, capsys):
    configs = configs_of("table=3", "guess=exact", "data=cifar10", "seeds=1")
    monkeypatch.setattr(planning, "seconds_per_image", lambda cfg, steps: (0.01, 0.002))
    jobs = plan("table=3", "guess=exact", "data=cifar10", "seeds=1")
    planning.show_plan(jobs, configs, dict.fromkeys(jobs, State.NEW))
    printed = capsys.readouterr().out
    assert "1 cell, 1 run: measuring a few steps of each of 1 kind of cell" in printed
    assert "~" not in printed
