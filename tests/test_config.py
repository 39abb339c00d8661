"""Configurations: every published cell composes with its recipe, and what makes no sense is refused in plain words."""

import csv
from collections import Counter
from pathlib import Path

import pytest
from helpers import GUESSES, PERTURBATIONS, TARGETS, compose
from hydra.errors import HydraException
from omegaconf import OmegaConf

import fglight
from fglight import build_estimator, load_config
from fglight.cells import Cell, recipe
from fglight.config import CONFIG_DIR, GROUPS, check_config
from fglight.errors import ConfigError, FglightError
from fglight.estimators import ActivityPerturbation, Unprojected

with (Path(fglight.__file__).parent / "paper" / "tables.csv").open(newline="") as file:
    ROWS = list(csv.DictReader(file))


def choices_of(row):
    groups = {group: row[group] for group in ("data", "target", "guess", "aux", "perturb") if row[group]}
    return {**groups, "model": f"resnet18_{row['blocks']}"}


def cell_of(row):
    words = {key: row[key] for key in ("data", "target", "guess", "aux", "perturb")}
    return Cell(blocks=int(row["blocks"]), width=float(row["width"]), **words)


def name_of(row):
    return f"table {row['table']}: {cell_of(row)}"


# Published cells


def test_there_are_462_published_cells():
    assert len(ROWS) == 462
    assert len({cell_of(row) for row in ROWS}) == 462
    assert Counter(row["table"] for row in ROWS).keys() == {str(number) for number in range(2, 13)}


def test_every_published_cell_composes_with_its_recipe():
    """All rows at once, so that a failure shows every row that is off."""
    wrong = []
    for row in ROWS:
        cfg = compose({"model.width": float(row["width"])}, **choices_of(row))
        check_config(cfg)
        recipe_of_row = [float(row[key]) for key in ("lr", "lr_step", "lr_gamma", "epochs")]
        composed = [cfg.optim.lr, cfg.optim.lr_step, cfg.optim.lr_gamma, cfg.trainer.max_epochs]
        if composed != recipe_of_row:
            wrong.append(f"{name_of(row)}: {composed} for {recipe_of_row}")
        if Cell.from_config(cfg) != cell_of(row):
            wrong.append(f"{name_of(row)}: comes back as {Cell.from_config(cfg)}")
        if cfg.data.batch_size != 128 or cfg.optim.momentum != 0.9 or cfg.optim.weight_decay != 5e-4:
            wrong.append(f"{name_of(row)}: batch size, momentum or weight decay")
        if (cfg.model.stem == "imagenet") != (row["data"] == "imagenette"):
            wrong.append(f"{name_of(row)}: stem {cfg.model.stem}")
    assert not wrong


@pytest.mark.parametrize("row", ROWS[::33], ids=name_of)
def test_the_shortcut_of_these_tests_composes_what_load_config_does(row):
    overrides = [f"{group}={choice}" for group, choice in choices_of(row).items()]
    cfg = load_config([*overrides, f"model.width={row['width']}"])
    shortcut = compose({"model.width": float(row["width"])}, **choices_of(row))
    assert OmegaConf.to_container(cfg, resolve=True) == OmegaConf.to_container(shortcut, resolve=True)


def test_names_of_published_cells_are_unique_and_good_for_files():
    names = [str(cell_of(row)) for row in ROWS]
    assert len(set(names)) == len(names)
    assert all(set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789-_.") for name in names)


def test_cells_that_the_paper_did_not_run_have_a_recipe_too():
    for data in ("digits", "fashion_mnist", "cifar10", "cifar100", "imagenet32", "imagenette"):
        for target in TARGETS:
            for guess in GUESSES:
                for perturb in PERTURBATIONS:
                    for blocks in (8, 16):
                        chosen = recipe(Cell(data, blocks, 1.0, target, guess, "predsim", perturb))
                        assert 0 < chosen.lr <= 0.1
                        assert chosen.epochs > chosen.lr_step >= 1


def test_any_part_of_the_recipe_can_be_overridden():
    recipe = ["optim.lr=0.3", "optim.lr_step=2", "optim.lr_gamma=0.7", "trainer.max_epochs=4"]
    cfg = load_config([*recipe, "model.stem=imagenet", "data.image_size=32"])
    assert (cfg.optim.lr, cfg.optim.lr_step, cfg.optim.lr_gamma, cfg.trainer.max_epochs) == (0.3, 2, 0.7, 4)
    assert cfg.model.stem == "imagenet"


def test_defaults():
    cfg = load_config()
    assert Cell.from_config(cfg) == Cell("digits", 8, 1.0, "global", "local", "cnn", "weight")
    assert (cfg.seed, cfg.probe, cfg.logger.mode, cfg.trainer.accelerator) == (0, False, "offline", "auto")


# Refusals

OUT_OF_RANGE = {
    "model.width": (0, -1, 0.01, "wide", None, float("nan"), True),
    "model.stem": ("none", 3),
    "seed": (-1, 2**32, 0.5, "a", None),
    "probe": ("maybe", 2),
    "cosine": ("often", 2),
    "aux.hidden": (0, -3, 1.5, "many"),
    "aux.trained": ("sometimes", None),
    "data.num_classes": (0, 1, -1, 2.5),
    "data.in_channels": (0, -1, "rgb"),
    "data.image_size": (0, 7, -8, "large"),
    "data.batch_size": (0, 1, -128, 12.5),
    "optim.lr": (0, -0.1, float("nan"), float("inf"), "high"),
    "optim.lr_step": (0, -1, 1.5),
    "optim.lr_gamma": (0, -0.1, 1.1),
    "optim.momentum": (-0.1, 1, "much"),
    "optim.weight_decay": (-1e-4, float("inf")),
    "trainer.max_epochs": (0, -1, 2.5, "all"),
    "trainer.log_every_n_steps": (0, -1),
    "trainer.precision": ("16-mixed", "16-true", 8),
    "trainer.devices": (0, "auto", -1, []),
    "trainer.strategy": ("fsdp", None),
    "trainer.sync_batchnorm": (1, "yes"),
    "optim.fused": (1, "yes"),
    "compile": ("max", 1),
    "channels_last": (1,),
    "logger.mode": ("sometimes", None),
}


@pytest.mark.parametrize(("setting", "value"), [(s, value) for s, values in OUT_OF_RANGE.items() for value in values])
def test_a_value_out_of_range_names_setting_value_and_what_is_accepted(setting, value):
    cfg = compose({setting: value})
    with pytest.raises(ConfigError) as caught:
        check_config(cfg)
    message = str(caught.value)
    assert message.startswith(f"{setting}={value} ")
    assert "accepted" in message
    assert "\n" not in message


@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("override", ["{}=null", "{}=NULL", "+{}=null", "~{}", "{}=null,other"])
def test_a_group_without_a_choice_is_refused_with_what_can_be_chosen(group, override):
    choices = [file.stem for file in (CONFIG_DIR / group).glob("*.yaml")]
    override = override.format(group)
    with pytest.raises(ConfigError) as caught:
        load_config([override])
    assert str(caught.value).startswith(f"{override} is not possible")
    cfg = compose()
    cfg[group] = None
    with pytest.raises(ConfigError, match=f"^{group}=null is not possible") as late:
        check_config(cfg)
    for error in (caught.value, late.value):
        assert all(choice in str(error) for choice in choices)
        assert "\n" not in str(error)


def test_groups_are_those_of_the_configuration():
    assert set(GROUPS) == {"aux", "data", "engine", "guess", "logger", "model", "optim", "perturb", "target", "trainer"}


def test_settings_that_may_be_null_still_may():
    assert load_config(["aux.hidden=null", "table=null"]).aux.hidden is None


def test_an_override_out_of_range_is_refused_on_loading():
    with pytest.raises(ConfigError, match=r"^trainer\.max_epochs=-3 .*accepted"):
        load_config(["trainer.max_epochs=-3"])


@pytest.mark.parametrize(("stem", "size"), [("imagenet", 31), ("cifar", 7)])
def test_an_image_too_small_for_the_network_is_refused(stem, size):
    with pytest.raises(ConfigError, match=rf"^data\.image_size={size} .*model\.stem={stem}"):
        check_config(compose({"model.stem": stem, "data.image_size": size}))
    check_config(compose({"model.stem": stem, "data.image_size": size + 1}))


def test_a_hidden_width_of_the_linear_auxiliary_is_refused():
    with pytest.raises(ConfigError, match=r"aux\.hidden=3 .*aux=linear.*null"):
        check_config(compose({"aux.hidden": 3}, aux="linear"))


@pytest.mark.parametrize(
    ("perturb", "granularity"),
    [
        *((perturb, word) for perturb in ("activity", "activity_span") for word in ("tensor", "block", "network")),
        ("weight_per_sample", "block"),
        ("weight_per_sample", "network"),
        ("weight", "sample"),
        ("weight", "layer"),
        ("weight", 3),
    ],
)
@pytest.mark.parametrize("guess", ["local", "exact"])
def test_a_granularity_that_means_nothing_is_refused(perturb, granularity, guess):
    with pytest.raises(ConfigError, match=rf"perturb\.granularity={granularity} .*accepted is"):
        check_config(compose({"perturb.granularity": granularity}, perturb=perturb, guess=guess))


@pytest.mark.parametrize("guess", ["ntk", "fixed_ntk"])
def test_a_probe_of_networks_that_must_not_train_is_refused(guess):
    with pytest.raises(ConfigError, match=r"probe=true.*probe=false"):
        check_config(compose({"probe": True}, guess=guess))
    with pytest.raises(ConfigError, match=r"probe=true.*aux\.trained"):
        check_config(compose({"probe": True, "aux.trained": False}, guess="local"))
    check_config(compose({"probe": True, "aux.trained": False}, guess="gaussian"))


def test_what_is_refused_is_an_error_for_users():
    assert issubclass(ConfigError, FglightError)
    assert issubclass(ConfigError, ValueError)


@pytest.mark.parametrize(
    ("override", "exists"),
    [
        ("guess=locl", GUESSES),
        ("target=glob", TARGETS),
        ("perturb=act", PERTURBATIONS),
        ("aux=vgg", ("cnn", "mlp", "linear", "predsim")),
        ("data=mnist", ("digits", "fashion_mnist", "cifar10", "cifar100", "imagenet32", "imagenette")),
        ("model=vgg", ("resnet18_8", "resnet18_16")),
    ],
)
def test_an_unknown_choice_lists_what_exists(override, exists):
    with pytest.raises(HydraException) as caught:
        load_config([override])
    assert all(choice in str(caught.value) for choice in exists)


@pytest.mark.parametrize(
    ("override", "unknown"),
    [("modle.width=1", "modle"), ("model.widht=1", "widht"), ("optim.learning_rate=0.1", "learning_rate")],
)
def test_an_unknown_setting_is_refused_by_name(override, unknown):
    with pytest.raises(HydraException, match=unknown):
        load_config([override])


# Builders


def test_the_exact_guess_ignores_the_perturbation():
    for perturb in PERTURBATIONS:
        assert isinstance(build_estimator(compose(guess="exact", perturb=perturb)).perturbation, Unprojected)


def test_an_estimator_has_three_parts():
    estimator = build_estimator(load_config(["target=local", "guess=ntk", "perturb=activity"]))
    assert type(estimator.target).__name__ == "LocalTarget"
    assert type(estimator.guess).__name__ == "NTKGuess"
    assert isinstance(estimator.perturbation, ActivityPerturbation)
