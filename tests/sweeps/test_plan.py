"""What a sweep runs: the paper's tables row by row, filtered, moved to other data and scaled down."""

from collections import Counter
from itertools import chain, product
from typing import ClassVar

import pytest
import yaml
from helpers import GUESSES, compose
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.utils import create_config_search_path
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.types import RunMode
from omegaconf import DictConfig

from fglight import build_estimator, build_model
from fglight.cell import Cell
from fglight.config import check_config
from fglight.config import compose as config_of
from fglight.config.settings import CONFIG_DIR
from fglight.errors import ConfigError
from fglight.estimators import GaussianGuess, LocalGuess
from fglight.paper import TABLES, rows
from fglight.paper.figures import FIGURES
from fglight.paper.recipes import recipe
from fglight.paper.searches import aux_sizes, schedules
from fglight.runs.folder import State
from fglight.runs.settings import run_settings
from fglight.sweeps.composing import Composer
from fglight.sweeps.jobs import Job, by_name, in_words, plan_jobs
from fglight.sweeps.planning import costs, timing
from fglight.sweeps.planning import plan as planning
from fglight.sweeps.planning.kinds import Kind
from fglight.sweeps.planning.size import aux_share, flops
from fglight.sweeps.planning.timing import Seconds
from fglight.sweeps.request import Request, parse
from fglight.sweeps.runner import Sweep


def request(*overrides: str) -> Request | None:
    return parse(OverridesParser.create().parse_overrides(list(overrides)))


def plan(*overrides: str) -> list[Job]:
    asked = request(*overrides)
    assert asked is not None
    return plan_jobs(asked)


COMPOSER = Composer(config_of)


def configured(overrides: list[str]) -> DictConfig:
    """The configuration of a run, checked; much of it is composed once for all."""
    cfg = COMPOSER(overrides)
    check_config(cfg)
    return cfg


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


def test_planned_runs_are_trained_as_their_row_says():
    for row in rows()[::23]:
        job = next(job for job in plan(f"table={row.table}") if job.cell == row.cell)
        cfg = configured(job.overrides)
        assert Cell.from_config(cfg) == row.cell
        assert (cfg.optim.lr, cfg.scheduler.step_size, cfg.scheduler.gamma) == (row.lr, row.lr_step, row.lr_gamma)
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


def test_settings_that_change_no_result_change_no_folder():
    watched = plan("table=3", "logger.mode=disabled", "trainer.enable_progress_bar=false", "data.root=/data")
    assert [job.folder for job in watched] == [job.folder for job in plan("table=3")]
    assert "logger.mode=disabled" in watched[0].overrides


def test_several_values_of_another_setting_are_several_runs():
    jobs = plan("table=3", "guess=exact", "data=cifar10", "seeds=1", "optim.momentum=0,0.9")
    assert [dict(job.settings)["optim.momentum"] for job in jobs] == ["0", "0.9"]


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
        assert {"optim.lr": row.lr, "scheduler.step_size": row.lr_step} in grid, row


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


def test_the_sizes_that_the_paper_chose_cost_less_than_a_tenth():
    for cell, settings in aux_sizes():
        chosen = {"mlp": "1024", "cnn": "32"}[cell.aux]
        if settings["aux.depth"] == "3" and settings["aux.hidden"] in (chosen, str(4 * int(chosen))):
            sizes = [f"aux={cell.aux}", "aux.depth=3", f"aux.hidden={settings['aux.hidden']}", "data=cifar10"]
            share = aux_share(configured(["target=local", "guess=exact", *sizes]))
            assert (share < 0.1) == (settings["aux.hidden"] == chosen)


def test_flops_of_a_local_loss_are_of_all_that_it_runs():
    """Predsim's loss is more than its logits: a convolution of all channels, and two matrices of similarities."""
    cfg = compose(aux="predsim")
    batch, classes = cfg.data.batch_size, cfg.data.num_classes
    outputs = zip((64, 64, 128, 128, 256, 256, 512), (32, 32, 16, 16, 8, 8, 4))
    for (_, aux), (channels, side) in zip(flops(cfg), outputs, strict=True):
        convolution = 2 * batch * 9 * channels**2 * side**2
        similarities = 2 * batch**2 * (channels + classes)
        assert aux == convolution + similarities + 2 * batch * 2048 * classes


def test_without_table_figure_or_search_it_is_an_ordinary_sweep():
    assert request("guess=local,ntk", "seed=0,1") is None
    assert request("table=null", "guess=local", "controls=false", "seeds=null", "plan=true") is None


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["table=1"], ["table=1", "2 to 12"]),
        (["table=3,13"], ["table=13", "2 to 12"]),
        (["table=three"], ["table=three", "2 to 12"]),
        (["figure=1"], ["figure=1", "2 to 9"]),
        (["search=depth"], ["search=depth", "lr, aux_size"]),
        (["search=lr"], ["search=lr", "table="]),
        (["table=3", "controls=maybe"], ["controls=maybe", "accepted is true or false"]),
        (["table=3", "controls=true,false"], ["controls=True,False", "accepted is true or false"]),
        (["table=3", "plan=maybe"], ["plan=maybe", "accepted is true or false"]),
        (["guess=local,ntk", "plan=maybe"], ["plan=maybe", "accepted is true or false"]),
        (["controls=true"], ["controls=true belongs to a sweep of tables", "add table=... or figure=..."]),
        (["guess=local,ntk", "blocks=8"], ["blocks=8", "add table=..., figure=... or study=..."]),
        (["guess=local,ntk", "seeds=2"], ["seeds=2", "table=..., figure=... or study=...", "seed=0,1"]),
        (["search=aux_size", "table=3"], ["search=aux_size"]),
        (["table=3", "seeds=0"], ["seeds=0", "1 on"]),
        (["table=3", "seeds=many"], ["seeds=many", "1 on"]),
        (["table=3", "seeds=2", "seed=1"], ["seed", "seeds"]),
        (["table=3", "guess=fixed_ntk"], ["Table 3", "guess=fixed_ntk", "exact, gaussian, local, ntk, rademacher"]),
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


def test_a_configuration_of_known_choices_is_the_one_that_hydra_composes():
    calls = []
    composer = Composer(lambda overrides: calls.append(overrides) or hydra_config(overrides))
    asked = [job.overrides for job in plan("table=all", "seeds=1", "data.root=images,'my images'")[::110]]
    asked += [["guess=ntk", "guess.directions=3", "+aux.pool=1"], ["data=digits", "optim={lr: 1, momentum: 0}"]]
    asked += [["seed=3"], [], ["model.width=0.5", "trainer.max_steps=5", "~guess.combine", "guess=gaussian"]]
    for overrides in asked:
        assert run_settings(composer(overrides)) == run_settings(hydra_config(overrides)), overrides
    known = len(calls)
    assert known < len(asked)
    for overrides in asked:
        composer(overrides)
    assert len(calls) == known + 1  # settings in place of a choice are left to Hydra


@pytest.mark.parametrize(
    "content", ["# @package _global_\nguess: {name: own}\nseed: 7", "name: own\nof: ${hydra.job.name}"]
)
def test_hydra_composes_what_a_choice_changes_elsewhere(content, tmp_path):
    (tmp_path / "guess").mkdir()
    (tmp_path / "guess" / "own.yaml").write_text(content)
    search = f"hydra.searchpath=[{tmp_path}]"
    composer = Composer(lambda overrides: hydra_config([search, *overrides]))
    for overrides in (["guess=own", "seed=3"], ["guess=own"], ["guess=local", "target=local"]):
        ours, hydras = composer(overrides), hydra_config([search, *overrides])
        for group in ("seed", "guess", "target"):
            assert ours[group] == hydras[group]


OWN = {
    "data/cifar10.yaml": ("augment: true", "augment: false", "data.augment=false"),
    "optim/sgd.yaml": ("${recipe:lr}", "0.3", "optim.lr=0.3"),
    "aux/cnn.yaml": ("depth: 3", "depth: 1", "aux.depth=1"),
    "guess/local.yaml": ("combine: sum", "combine: max", "guess.combine=max"),
    "model/resnet18_8.yaml": ("blocks: 8", "blocks: 16", "model.blocks=16"),
    "trainer/default.yaml": ("${recipe:epochs}", "7", "trainer.max_epochs=7"),
    "config.yaml": ("optim: sgd", "optim: adam", "optim=adam"),
}
"""Files that users may have in a folder of their own, by what they change in those that ship, and how runs tell it."""


@pytest.mark.parametrize("file", OWN)
def test_a_table_with_defaults_of_ones_own_tells_that_it_departs(file, tmp_path, capsys):
    shipped, own, told = OWN[file]
    path = tmp_path / "my_conf" / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text((CONFIG_DIR / file).read_text().replace(shipped, own))
    search = create_config_search_path(str(CONFIG_DIR))
    search.prepend("command-line", f"file://{tmp_path / 'my_conf'}")  # as --config-dir does
    composer = Composer(lambda texts: ConfigLoaderImpl(search).load_configuration("config", texts, RunMode.MULTIRUN))
    cell = ("data=cifar10", "guess=local", "aux=cnn", "perturb=weight")
    asked = request("table=3", *cell, "model.width=0.0625", "seeds=1")
    sweep = Sweep(asked, tmp_path / "runs", composer, launch=lambda *_: [], serial=True, here=False)
    (job,) = sweep.jobs
    assert job.name == f"cifar10-8bw0.0625-global-local-cnn-weight_{told}"
    sweep.run()
    assert f"Defaults that are not as in the paper: {told}\n" in capsys.readouterr().out


def test_what_an_override_asks_for_is_told_as_before_beside_other_defaults():
    (job,) = plan("table=3", "data=cifar10", "guess=exact", "seeds=1", "optim.momentum=0.5", "trainer.max_epochs=10")
    departing = {"optim.momentum": 0.5, "trainer.max_epochs": 10, "scheduler.step_size": 3, "clip_norm": 1.0}
    assert job.unasked(departing) == {"clip_norm": "1.0"}
    assert job.telling(departing).name.endswith("_clip_norm=1.0,optim.momentum=0.5,trainer.max_epochs=10")


def test_an_interpolation_that_leads_nowhere_is_left_to_the_check():
    cfg = Composer(hydra_config)(["guess=local", "optim.lr=${nothing}"])
    with pytest.raises(ConfigError, match=r"optim.lr has no value: Interpolation key 'nothing' not found"):
        check_config(cfg)


def hydra_config(overrides: list[str]) -> DictConfig:
    """What Hydra composes for a run of a sweep, with the node ``hydra``."""
    with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
        return hydra_compose("config", overrides, return_hydra_config=True)


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


class Machine:
    """Stands in for a ``Network`` whose parts take known times, and counts what is timed.

    A step is a factor of the network's, times what passes and auxiliary networks take.
    """

    timed: ClassVar[list[str]] = []

    def __init__(self, cfg: DictConfig, *, auxiliaries: bool = False) -> None:
        self.speed = cfg.model.width**2 * cfg.data.image_size**2
        self.aux = auxiliaries_cost(cfg) if auxiliaries else 0

    def backpropagation(self, enough: float) -> Seconds:
        self.timed.append("backpropagation")
        return Seconds(1 * self.speed, 2 * self.speed)

    def training(self, cfg: DictConfig, enough: float) -> Seconds:
        self.timed.append("training")
        own = passes_cost(cfg) + self.aux
        return Seconds(own * self.speed, 2 * own * self.speed)

    def testing(self, enough: float, *, auxiliaries: bool = False) -> Seconds:
        own = self.speed * (1 + self.aux / 3)
        return Seconds(own, 2 * own)

    def auxiliaries(self, cfg: DictConfig) -> Seconds:
        self.timed.append("auxiliaries")
        train = auxiliaries_cost(cfg)
        return Seconds(train * self.speed, 2 * train * self.speed)


def passes_cost(cfg: DictConfig) -> float:
    guess = {"exact": 1, "local": 2, "ntk": 2, "fixed_ntk": 2, "gaussian": 3, "rademacher": 3, "own": 7}[cfg.guess.name]
    target = {"global": 1, "local": 0.5, "intermediate": 2}[cfg.target.name]
    space = {"activity": 1, "weight": 1.5}.get(cfg.perturb.name, 4) if guess > 1 else 1
    return guess + target * space


def auxiliaries_cost(cfg: DictConfig) -> float:
    if cfg.target.name == "global" and cfg.guess.name in ("exact", "gaussian", "rademacher"):
        return 0
    untrained = 0.5 if cfg.guess.name in ("ntk", "fixed_ntk") else 1
    return untrained * {"cnn": 0.25, "mlp": 0.75, "linear": 0.125, "predsim": 0.5}[cfg.aux.name]


@pytest.fixture
def machine(monkeypatch):
    monkeypatch.setattr(costs, "Network", Machine)
    monkeypatch.setattr(Machine, "timed", [])
    return Machine


def test_all_tables_follow_from_a_few_parts(machine):
    configs = {Kind.of(cfg): cfg for cfg in configs_of("table=all").values()}
    assert len(configs) == 278
    times = costs.measure(configs)
    assert times.keys() == configs.keys()
    # Both ways to cut the network up, at its width on three sizes of images, and two other widths; not the widest.
    assert Counter(machine.timed) == {"backpropagation": 2 * 3 + 2, "training": 14, "auxiliaries": 16}
    for kind, cfg in configs.items():
        speed = cfg.model.width**2 * cfg.data.image_size**2
        train = auxiliaries_cost(cfg)
        # Of the widest network it is the number of parameters that tells, which is not just the square of the width.
        close = 0.02 if cfg.model.width == 4 else 1e-6
        assert times[kind].training == pytest.approx(speed * (1 + 2 * 128) * (passes_cost(cfg) + train), rel=close)
        # What a test takes follows backpropagation from one network to another, too.
        assert times[kind].testing == pytest.approx(speed * (1 + 2 * 128) * (1 + train / 3), rel=close)


def test_a_guess_whose_use_of_auxiliary_networks_is_not_known_is_timed_with_them(machine):
    configs = [compose({"guess.directions": 4}, guess="ntk", aux="mlp"), compose(guess="ntk", aux="mlp")]
    kinds = [Kind.of(cfg) for cfg in configs]
    assert [kind.whole for kind in kinds] == [True, False]
    times = costs.measure(dict(zip(kinds, configs)))
    assert times[kinds[0]] == times[kinds[1]]
    assert sorted(machine.timed) == ["auxiliaries", "backpropagation", "backpropagation", "training", "training"]


def test_so_are_several_auxiliary_networks_that_give_a_direction_each():
    kinds = [Kind.of(compose({"guess.combine": combine}, aux="several")) for combine in ("sum", "span")]
    assert [kind.whole for kind in kinds] == [False, True]
    assert Kind.of(compose({"aux.parts": ["cnn"]}, aux="several")) not in kinds


def test_guesses_of_ones_own_are_timed_by_themselves():
    own = compose({"guess._target_": f"{__name__}.OwnGuess"}, guess="gaussian")
    assert Kind.of(own).passes not in {Kind.of(compose(guess=guess)).passes for guess in GUESSES}
    learned = compose({"guess._target_": f"{__name__}.OwnLocalGuess"}, guess="local")
    assert Kind.of(learned).whole
    assert Kind.of(learned) != Kind.of(compose({"aux.hidden": 3, "guess._target_": f"{__name__}.OwnLocalGuess"}))


class OwnGuess(GaussianGuess):
    pass


class OwnLocalGuess(LocalGuess):
    pass


def test_what_cannot_change_a_time_is_not_timed_again():
    first = compose(guess="local")
    for changed in ({"optim.lr": 0.3}, {"data.num_classes": 100}, {"data.holdout": 0.1}, {"trainer.max_epochs": 3}):
        assert Kind.of(compose(changed, guess="local")) == Kind.of(first)
    assert Kind.of(compose(guess="exact", perturb="activity")) == Kind.of(compose(guess="exact", perturb="weight"))
    for changed in ({"model.width": 0.5}, {"data.image_size": 28}, {"data.batch_size": 64}, {"aux.hidden": 3}):
        assert Kind.of(compose(changed, guess="local")) != Kind.of(first)
    assert Kind.of(compose(guess="local", engine="forward")) != Kind.of(first)


@pytest.mark.parametrize(
    ("enough", "expected"),
    [(0.01, [2, 2, 8, 8]), (0.15, [2, 2, 8, 8, 32, 32]), (100, [2, 2, 8, 8, 32, 32, 128, 128])],
)
def test_the_time_of_a_batch_is_extrapolated_from_small_ones(enough, expected, monkeypatch):
    sizes = []

    def time(network, step, batch):
        sizes.append(len(batch[0]))
        first = sizes.count(sizes[-1]) == 1  # in which what is not there yet takes time
        return 0.05 + 0.004 * sizes[-1] + 0.03 * first

    monkeypatch.setattr(timing.Network, "_time", time)
    network = timing.Network(compose({"model.width": 1 / 32, "data.image_size": 8}))
    taken = network.testing(enough)
    assert taken.step == pytest.approx(0.05)
    assert taken.of(128) == pytest.approx(0.05 + 0.004 * 128)
    assert sizes == expected


def test_long_steps_are_timed_once_and_disturbed_ones_do_no_harm(monkeypatch):
    taken = iter([5, 3])  # a small batch, and a larger one that takes less
    monkeypatch.setattr(timing.Network, "_time", lambda *_: next(taken))
    network = timing.Network(compose({"model.width": 1 / 32, "data.image_size": 8}))
    assert network.testing(0.1).of(128) == 3


@pytest.mark.parametrize("guess", GUESSES)
@pytest.mark.parametrize("target", ["global", "local"])
def test_parts_are_timed_as_a_step_has_them(guess, target, monkeypatch):
    """Auxiliary networks get the gradients, and the same parameters are trained, that a step would."""
    trained = []
    optimizer = timing._optimizer
    monkeypatch.setattr(timing, "_optimizer", lambda parameters: trained.append(parameters) or optimizer(parameters))
    monkeypatch.setattr(timing, "FEW", 128)
    cfg = compose({"model.width": 1 / 32, "data.image_size": 8}, guess=guess, target=target)
    network = timing.Network(cfg)
    assert network.training(cfg, 1).of(128) > 0
    estimator = build_estimator(cfg)
    assert (network.auxiliaries(cfg).of(128) > 0) == estimator.evaluates_auxiliaries
    passes, *auxiliaries = trained
    assert bool(auxiliaries) == estimator.trains_auxiliaries
    assert all(parameter.grad.isfinite().all() for parameters in trained for parameter in parameters)
    step = {"body": [*passes], "aux": [*auxiliaries[0]] if auxiliaries else []}
    expected = estimator.trained_parameters(build_model(cfg))
    pooled = 2 * 7 if estimator.trains_auxiliaries else 0  # of the auxiliary networks that stand in
    assert len(step["body"]) - pooled + len(step["aux"]) == len(expected)


@pytest.mark.parametrize(
    ("trainer", "steps", "tests"),
    [
        ({}, 10 * 1437 / 128, 10 * 360 / 128),
        ({"limit_train_batches": 3, "limit_val_batches": 1}, 30, 10),
        ({"limit_train_batches": 1000, "limit_val_batches": 1000}, 10 * 1437 / 128, 10 * 360 / 128),
        ({"limit_train_batches": 0.5, "limit_val_batches": 0.25}, 5 * 1437 / 128, 2.5 * 360 / 128),
        ({"limit_train_batches": 1.0}, 10 * 1437 / 128, 10 * 360 / 128),
        ({"max_steps": 4}, 4, 360 / 128),
        ({"max_steps": 4, "limit_train_batches": 3}, 4, 2 * 360 / 128),
        ({"max_steps": -1}, 10 * 1437 / 128, 10 * 360 / 128),
        ({"max_steps": 10_000}, 10 * 1437 / 128, 10 * 360 / 128),
        ({"fast_dev_run": True}, 1, 1),
        ({"fast_dev_run": 3, "max_steps": 100}, 3, 3),
        ({"fast_dev_run": False}, 10 * 1437 / 128, 10 * 360 / 128),
    ],
)
def test_a_run_takes_its_steps_and_a_test_after_each_epoch(trainer, steps, tests):
    cfg = compose(data="digits")
    cfg.trainer = {**cfg.trainer, "max_epochs": 10, **trainer}
    assert planning.run_seconds(cfg, costs.Times(3.0, 0.5)) == pytest.approx(3 * steps + 0.5 * tests)


def test_images_held_out_are_not_trained_on():
    cfg = compose({"trainer.max_epochs": 2, "data.holdout": 0.1}, data="digits")
    expected = 2 * (3 * 0.9 * 1437 / 128 + 0.1 * 1437 / 128)
    assert planning.run_seconds(cfg, costs.Times(3.0, 1.0)) == pytest.approx(expected)


def test_a_plan_says_what_was_timed_and_how_the_rest_follows(machine, capsys):
    asked = ["table=8", "perturb=weight", "guess=local", "aux=cnn,mlp", "seeds=1"]
    jobs = plan(*asked)
    planning.show_plan(jobs, configs_of(*asked), dict.fromkeys(jobs, State.NEW))
    printed = " ".join(capsys.readouterr().out.split())
    assert "6 cells, 6 runs: timing 6 parts of a step for 6 kinds of step" in printed
    assert printed.count("~ ") == 4 + 1  # the fifth is in the note
    assert "backpropagation its estimator takes on resnet18_16, width 0.5, 3x32x32." in printed
    assert "6 cells, 6 runs, 6 of them to do: about" in printed


def test_a_plan_of_one_network_has_no_note(machine, capsys):
    jobs = plan("table=3", "guess=exact", "data=cifar10", "seeds=1")
    planning.show_plan(jobs, configs_of("table=3", "guess=exact", "data=cifar10", "seeds=1"), {jobs[0]: State.FINISHED})
    printed = " ".join(capsys.readouterr().out.split())
    assert "1 cell, 1 run: timing 2 parts of a step for 1 kind of step" in printed
    assert "~" not in printed
    assert "1 cell, 1 run, 0 of them to do: about 0 s" in printed


def test_a_study_s_plan_has_its_estimators_and_tells_their_scale_once(machine, capsys):
    asked = ["study=guesses", "guess=local", "aux=cnn", "seeds=1", "model.width=0.5", "trainer.max_epochs=3"]
    jobs = plan(*asked)
    planning.show_plan(jobs, configs_of(*asked), dict.fromkeys(jobs, State.NEW))
    printed = capsys.readouterr().out
    assert "digits, model.width=0.5, trainer.max_epochs=3" in map(str.strip, printed.splitlines())
    assert printed.count("digits") == 1
    rows = [line.split("│")[1].strip() for line in printed.splitlines() if "1 new" in line]
    assert rows == ["Local guess, CNN, weight", "Local guess, CNN, activity"]


def test_estimators_whose_runs_differ_tell_how():
    asked = ("study=controls", "guess=frozen", "seeds=1", "optim.lr=0.1,0.2")
    title, words = in_words(plan(*asked, "data=digits,cifar10", "optim.momentum=0,0.9"))
    assert title == "model.width=1"
    own = product(("digits", "cifar10"), ("0", "0.9"))
    assert set(words.values()) == {f"Frozen blocks, {data}, optim.momentum={momentum}" for data, momentum in own}
    jobs = plan("table=3", "seeds=1")
    assert in_words(jobs) == ("", {job.name: job.name for job in jobs})


def test_the_plan_of_an_ordinary_sweep_has_a_line_for_each_configuration(machine, capsys):
    runs = {f"guess={guess} seed={seed}": compose({"seed": seed}, guess=guess) for guess in GUESSES for seed in (0, 1)}
    planning.show_ordinary(runs)
    lines = capsys.readouterr().out.splitlines()
    assert sum("guess=" in line for line in lines) == len(GUESSES)
    assert sum("0,1" in line and "2 new" in line for line in lines) == len(GUESSES)
    assert lines[-1].startswith("6 configurations, 12 runs, 12 of them to do: about")


def test_another_schedule_has_no_step_size():
    jobs = plan("table=3", "guess=exact", "data=cifar10", "seeds=1", "trainer.max_epochs=10", "scheduler=cosine")
    (cfg,) = (configured(job.overrides) for job in jobs)
    assert (cfg.scheduler.name, cfg.scheduler.T_max) == ("cosine", 10)
    searched = plan("search=lr", "table=3", "guess=exact", "data=imagenet32", "seeds=1", "scheduler=cosine")
    assert len(searched) == 6
    assert all(configured(job.overrides).scheduler.name == "cosine" for job in searched)
