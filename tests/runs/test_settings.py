"""What counts as a departure from the paper's training, from a configuration through its record into the report."""

import json
from contextlib import nullcontext
from dataclasses import replace

import pytest
from helpers import compose
from omegaconf import OmegaConf
from written_runs import LOCAL, ROWS

from fglight import load_config
from fglight.cell import Cell
from fglight.config.rules import LIGHTNING
from fglight.config.settings import GROUPS
from fglight.errors import ConfigError
from fglight.paper.recipes import MODELS, nearest, recipe
from fglight.report.contents import build
from fglight.runs import differences
from fglight.runs.folder import write_config
from fglight.runs.record import build_result
from fglight.runs.settings import RunFacts, check_unchanged, flat, has_effect, in_short, run_settings

DEPARTURES = [
    "data.augment=false",
    "data.std=[1,1,1]",
    "data.mean=[0,0,0]",
    "data.image_size=64",
    "data.batch_size=64",
    "data.num_classes=11",
    "data.source._target_=fglight.data.sources.CIFAR100",
    "data.images=[1,1]",
    "model.stem=imagenet",
    "model._target_=fglight.models.BlockNetwork",
    "optim.lr=0.1",
    "scheduler.step_size=20",
    "scheduler.gamma=0.1",
    "optim.momentum=0.8",
    "optim.weight_decay=0",
    "trainer.max_epochs=90",
    "trainer.devices=4",
    "trainer.devices=[0,1]",
    "trainer.precision=bf16-mixed",
    "trainer.sync_batchnorm=true",
    "+trainer.limit_train_batches=2",
    "+trainer.limit_train_batches=1",
    "+trainer.limit_val_batches=0.5",
    "+trainer.max_steps=100",
    "+trainer.max_time=00:01:00:00",
    "+trainer.fast_dev_run=true",
    "aux.hidden=8",
    "aux.depth=2",
    "aux.trained=false",
    "perturb.granularity=filter",
    "engine=forward",
    "optim=adam",
    "scheduler=cosine",
    "scheduler.interval=step",
    "clip_norm=1.0",
]

WITHOUT = [
    "data.root=elsewhere",
    "data.download=false",
    "trainer.accelerator=cpu",
    "trainer.strategy=ddp",
    "trainer.enable_progress_bar=false",
    "trainer.log_every_n_steps=1",
    "+trainer.max_steps=-1",
    "+trainer.fast_dev_run=false",
    "+trainer.profiler=pytorch",
    "+trainer.deterministic=true",
    "+trainer.accumulate_grad_batches=1",
    "+trainer.limit_train_batches=null",
    "logger.mode=disabled",
    "logger.project=another",
    "logger.tags=[a,b]",
    "seed=3",
    "cosine=false",
    "probe=true",
    "optim.lr=0.05",
    "optim.nesterov=false",
    "optim.dampening=0",
    "aux.hidden=32",
    "perturb.coefficient=projection",
    "trainer.max_epochs=100",
    "trainer.devices=[3]",
]

COMPOSED = load_config(["data=cifar10"])


def config(*overrides):
    """``load_config(["data=cifar10", ...])`` without Hydra's time; whole choices are put in place."""
    cfg = OmegaConf.create({key: COMPOSED._get_node(key) for key in COMPOSED})
    for text in overrides:
        name, _, value = text.lstrip("+").partition("=")
        if name in GROUPS:
            cfg = compose(**{"data": "cifar10", name: value})
        else:
            OmegaConf.update(cfg, name, OmegaConf.create(f"x: {value}").x, force_add=True)
    return cfg


def of_cell(cell):
    """The configuration that a command line gives for a cell."""
    parts = {"aux": cell.aux or "cnn", "perturb": cell.perturb or "weight"}
    chosen = {"data": cell.data, "model": MODELS[cell.blocks], "target": cell.target, "guess": cell.guess, **parts}
    return compose({"model.width": cell.width}, **chosen)


@pytest.mark.parametrize("table", sorted({str(row.table) for row in ROWS.values()}))
def test_every_cell_of_the_paper_is_trained_as_in_the_paper(table):
    cells = [cell for cell, row in ROWS.items() if str(row.table) == table]
    assert cells
    for cell in cells:
        cfg = of_cell(cell)
        assert Cell.from_config(cfg) == cell
        assert differences(cfg) == {}
        how = recipe(cell)
        settings = (cfg.optim.lr, cfg.scheduler.step_size, cfg.scheduler.gamma, cfg.trainer.max_epochs)
        assert settings == (how.lr, how.lr_step, how.lr_gamma, how.epochs)


@pytest.mark.parametrize("override", DEPARTURES)
def test_a_setting_that_can_change_the_result_is_a_difference(override, tmp_path):
    found = differences(config(override))
    name = override.lstrip("+").partition("=")[0]
    assert found
    assert all(setting == name or setting.startswith(f"{name}.") for setting in found)
    assert statuses(config(override), tmp_path) == {"scaled"}


def test_a_search_is_a_difference_and_its_accuracy_on_held_out_images_fills_no_cell(tmp_path):
    assert differences(config("data.holdout=0.1")) == {"data.holdout": 0.1}
    assert statuses(config("data.holdout=0.1"), tmp_path) == {"missing"}


@pytest.mark.parametrize("override", WITHOUT)
def test_a_setting_without_effect_on_the_result_is_none(override, tmp_path):
    assert differences(config(override)) == {}
    assert statuses(config(override), tmp_path) == {"one run"}


def test_checkpointing_sets_runs_apart_and_is_compared_all_the_same(tmp_path):
    assert differences(config("checkpointing=true")) == {"checkpointing": True}
    assert statuses(config("checkpointing=true"), tmp_path) == {"one run"}
    check_unchanged(run_settings(config()), tmp_path / "run")  # an interrupted run may go on without


@pytest.mark.parametrize("setting", ["model.new", "optim.nesterov", "trainer.new", "guess.new", "target.new", "new"])
def test_a_setting_that_nobody_has_heard_of_is_a_difference(setting):
    cfg = config()
    OmegaConf.update(cfg, setting, True, force_add=True)
    assert differences(cfg) == {setting: True}


@pytest.mark.parametrize("name", sorted(LIGHTNING))
def test_an_option_of_the_trainer_is_known_to_have_no_effect_or_counts(name):
    cfg = config()
    OmegaConf.update(cfg, f"trainer.{name}", "another value", force_add=True)
    assert bool(differences(cfg)) == has_effect(f"trainer.{name}")


def test_components_that_a_cell_makes_no_use_of_do_not_count():
    exact = {"guess": "exact", "data": "cifar10"}
    assert differences(compose({"aux.hidden": 3, "perturb.granularity": "filter"}, **exact)) == {}
    assert differences(compose(guess="gaussian", aux="mlp", data="cifar10")) == {}
    local = compose({"aux.hidden": 3, "perturb.granularity": "filter"}, **exact, target="local")
    assert differences(local) == {"aux.hidden": 3}


def test_a_component_that_the_paper_does_not_have_differs_in_all_that_it_sets():
    cfg = config()
    for group in ("guess", "model", "data", "perturb"):
        own = OmegaConf.create({**cfg, group: {**cfg[group], "name": "mine", "_target_": "mine.Mine", "strength": 2}})
        assert {f"{group}._target_", f"{group}.name", f"{group}.strength"} <= differences(own).keys()


def statuses(cfg, folder, of=LOCAL):
    """How the report compares the cell of a run of this configuration, whose accuracy is the paper's."""
    accuracy = ROWS[of].mean / 100
    metrics = {f"{split}/{name}": accuracy for split in ("test", "train") for name in ("accuracy", "loss")}
    result = build_result(RunFacts.of(cfg), epochs_done=100, steps=1, metrics=metrics, seconds=1, device="cpu")
    (folder / "run").mkdir(exist_ok=True)
    write_config(run_settings(cfg), folder / "run")
    (folder / "run/result.json").write_text(json.dumps(result))
    report = build([folder], [ROWS[of].table], [])
    entries = (entry for table in report.tables for entry in table.entries if entry.row.cell == of)
    return {"scaled" for scaled, _ in report.scaled if of in scaled.scores} or {entry.status for entry in entries}


PREDSIM = replace(LOCAL, aux="predsim")


def test_predsim_is_the_paper_s_with_all_channels_alone(tmp_path):
    assert differences(compose(data="cifar10", aux="predsim")) == {}
    assert statuses(compose(data="cifar10", aux="predsim"), tmp_path, PREDSIM) == {"one run"}
    thinned = compose({"aux.full_conv": False}, data="cifar10", aux="predsim")
    assert differences(thinned) == {"aux.full_conv": False}
    assert statuses(thinned, tmp_path, PREDSIM) == {"scaled"}


def test_another_network_whose_settings_have_the_same_names_fills_no_cell(tmp_path):
    cfg = config()
    cfg.model = {"_target_": "mine.Net", "name": "mine", "blocks": 8, "width": [4, 8]}
    assert Cell.from_config(cfg) == replace(LOCAL, network="mine", blocks=0)
    assert statuses(cfg, tmp_path) == {"missing"}
    ((cell, *_),) = build([tmp_path], [3], []).outside
    assert cell == "cifar10, mine, local guess, cnn, weight, global target"


def test_settings_by_full_names_hold_every_value():
    nested = {"a": {"b": 1, "c": {"d": [1, 2]}}, "e": None, "f": {}}
    assert flat(nested) == {"a.b": 1, "a.c.d": [1, 2], "e": None, "f": {}}


def test_a_random_guess_of_one_s_own_is_nearest_to_gaussian():
    own = replace(LOCAL, guess="mine")
    assert nearest(own, random=True).guess == "gaussian"
    assert nearest(own, random=False).guess == "local"
    assert nearest(LOCAL, random=False) == LOCAL


def test_a_run_goes_on_with_the_settings_that_it_began_with_and_no_others(tmp_path):
    write_config(run_settings(config()), tmp_path)
    check_unchanged(run_settings(config("logger.mode=disabled")), tmp_path)
    for override, words in (
        ("scheduler.step_size=20", r"scheduler\.step_size=30 there, 20 now"),
        ("optim=adam", r"optim\._target_=torch\.optim\.SGD there, torch\.optim\.Adam now"),
        ("clip_norm=1.0", r"clip_norm=None there, 1\.0 now"),
        ("optim.nesterov=true", r"optim\.nesterov=\(none\) there, True now"),
    ):
        with pytest.raises(ConfigError, match=words):
            check_unchanged(run_settings(config(override)), tmp_path)


def test_a_run_may_become_longer_unless_its_length_is_what_its_schedule_is_made_for(tmp_path):
    write_config(run_settings(config()), tmp_path)
    longer = run_settings(config("trainer.max_epochs=101"))
    check_unchanged(longer, tmp_path, may_be_longer=True)
    for settings in ({}, {"may_be_longer": False}):
        with pytest.raises(ConfigError, match=r"trainer\.max_epochs=100 there, 101 now"):
            check_unchanged(longer, tmp_path, **settings)
    with pytest.raises(ConfigError, match=r"trainer\.max_epochs=100 there, 99 now"):
        check_unchanged(run_settings(config("trainer.max_epochs=99")), tmp_path, may_be_longer=True)
    write_config(run_settings(config("trainer.max_forwards=1000")), tmp_path)
    with pytest.raises(ConfigError, match=r"trainer\.max_epochs=100 there, 101 now"):
        check_unchanged(
            run_settings(config("trainer.max_forwards=1000", "trainer.max_epochs=101")), tmp_path, may_be_longer=True
        )


@pytest.mark.parametrize(("source", "refused"), [("image_folder", True), ("ImageDataModule", False)])
def test_another_folder_of_images_is_another_data_set(source, refused, tmp_path):
    cfg = config()
    cfg.data._target_ = f"fglight.data.{source}"
    write_config(run_settings(cfg), tmp_path)
    check_unchanged(run_settings(cfg), tmp_path)
    cfg.data.root = "elsewhere"
    with pytest.raises(ConfigError, match=r"data\.root=\w+ there, elsewhere now") if refused else nullcontext():
        check_unchanged(run_settings(cfg), tmp_path)


def test_of_a_component_of_another_name_people_see_its_name_and_what_it_sets():
    of_guess = {"guess._target_": "own.Mine", "guess.beta": None, "guess.random": True}
    seen = {"guess.name": "mine", "guess.alpha": 0.3, "optim._target_": "own.Optim", "clip_norm": None, "probe": True}
    assert in_short(of_guess | seen) == seen
    del seen["guess.name"]
    assert in_short(of_guess | seen) == of_guess | seen
