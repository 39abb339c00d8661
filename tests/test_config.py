"""Configurations: every published cell composes with its recipe, and what makes no sense is refused in plain words."""

import csv
import inspect
import re
from collections import Counter
from pathlib import Path

import lightning
import pytest
import yaml
from helpers import GUESSES, PERTURBATIONS, TARGETS, compose
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import ConfigAttributeError

import fglight
from fglight import build_estimator, build_model, load_config
from fglight.cell import Cell
from fglight.config import check_config
from fglight.config.rules import MODELS
from fglight.config.settings import CONFIG_DIR, GROUPS, UnknownSettingError
from fglight.config.values import check_values
from fglight.errors import ConfigError, FglightError
from fglight.estimators import ActivityPerturbation, Unprojected
from fglight.paper.recipes import recipe
from fglight.runs import differences
from fglight.training.build import build_callbacks

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
        composed = [cfg.optim.lr, cfg.scheduler.step_size, cfg.scheduler.gamma, cfg.trainer.max_epochs]
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
    recipe = ["optim.lr=0.3", "scheduler.step_size=2", "scheduler.gamma=0.7", "trainer.max_epochs=4"]
    cfg = load_config([*recipe, "model.stem=imagenet", "data.image_size=32"])
    assert (cfg.optim.lr, cfg.scheduler.step_size, cfg.scheduler.gamma, cfg.trainer.max_epochs) == (0.3, 2, 0.7, 4)
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
    "data.num_classes": (0, -1, 2.5),
    "data.in_channels": (0, -1, "rgb"),
    "data.image_size": (0, -8, "large"),
    "data.batch_size": (0, 1, -128, 12.5),
    "optim.lr": (0, -0.1, float("nan"), float("inf"), "high"),
    "scheduler.step_size": (0, -1, 1.5),
    "scheduler.gamma": (0, -0.1, 1.1),
    "optim.momentum": (-0.1, 1, "much"),
    "optim.weight_decay": (-1e-4, float("inf")),
    "clip_norm": (0, -1.0, float("inf"), "short"),
    "scheduler.interval": ("batch", None),
    "trainer.max_epochs": (0, -1, 2.5, "all"),
    "trainer.log_every_n_steps": (0, -1),
    "trainer.precision": ("16-mixed", "16-true", 8),
    "trainer.devices": (0, "auto", -1, []),
    "trainer.strategy": ("fsdp", None),
    "trainer.sync_batchnorm": (1, "yes"),
    "trainer.accelerator": ("tpus", None, 1),
    "trainer.enable_progress_bar": (1, "maybe"),
    "optim.fused": (1, "yes"),
    "compile": ("max", 1),
    "channels_last": (1,),
    "checkpointing": (1,),
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


def test_what_is_accepted_is_said_of_every_setting_that_is_checked():
    settings = OmegaConf.to_container(compose(), resolve=True)
    check_values(settings, settings)
    for group, model in MODELS.items():
        for name in model.model_fields:
            wrong = [{"nothing": 1}]
            changed = settings | ({group: settings[group] | {name: wrong}} if group else {name: wrong})
            with pytest.raises(ConfigError) as caught:
                check_values(changed, changed)
            setting = f"{group}.{name}".lstrip(".")
            assert re.match(rf"{setting}={re.escape(str(wrong))} is not possible: accepted is \w", str(caught.value))


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
    assert set(GROUPS) == {
        "aux",
        "callbacks",
        "data",
        "engine",
        "guess",
        "logger",
        "loss",
        "model",
        "optim",
        "perturb",
        "scheduler",
        "target",
        "trainer",
    }


def test_settings_that_may_be_null_still_may():
    assert load_config(["aux.hidden=null", "table=null"]).aux.hidden is None


def test_an_override_out_of_range_is_refused_on_loading():
    with pytest.raises(ConfigError, match=r"^trainer\.max_epochs=-3 .*accepted"):
        load_config(["trainer.max_epochs=-3"])


@pytest.mark.parametrize(("stem", "size"), [("imagenet", 31), ("cifar", 7)])
def test_an_image_too_small_for_the_network_is_refused(stem, size):
    with pytest.raises(ConfigError, match=rf"^data\.image_size={size} .*model\.stem={stem}"):
        build_model(compose({"model.stem": stem, "data.image_size": size}))
    build_model(compose({"model.stem": stem, "data.image_size": size + 1}))


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
        build_estimator(compose({"perturb.granularity": granularity}, perturb=perturb, guess=guess))


@pytest.mark.parametrize("guess", ["ntk", "fixed_ntk"])
def test_a_probe_of_networks_that_must_not_train_is_refused(guess):
    with pytest.raises(ConfigError, match=r"probe=true.*probe=false"):
        build_estimator(compose({"probe": True}, guess=guess))
    with pytest.raises(ConfigError, match=r"probe=true.*aux\.trained"):
        build_estimator(compose({"probe": True, "aux.trained": False}, guess="local"))
    build_estimator(compose({"probe": True, "aux.trained": False}, guess="gaussian"))


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


def refusal(*overrides):
    """The one line in which a configuration is refused."""
    with pytest.raises(ConfigError) as caught:
        load_config(list(overrides))
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("override", "nearest"),
    [
        ("trainer.max_epoch=3", "did you mean trainer.max_epochs?"),
        ("optimizer.lr=0.1", "did you mean optim.lr?"),
        ("model.widht=0.5", "did you mean model.width?"),
        ("gues=local", "did you mean guess?"),
        ("batch_size=64", "did you mean data.batch_size?"),
        ("guess.trained=1", "did you mean aux.trained?"),
        ("callback=early_stopping", "did you mean callbacks?"),
        ("foo=1", "there are aux, blocks, "),
        ("+optim.foo=1", "there are optim.dampening, optim.differentiable, "),
        ("+model.foo=1", "there are model.blocks, model.name, model.network, model.stem"),
        ("+data.foo=1", "there are data.augment, data.batch_size, "),
        ("data.source.foo=1", "there are data.augment, data.batch_size, "),
        ("+guess.foo=1", "there are guess.combine, guess.name"),
        ("+target.foo=1", "there are target.name"),
        ("+engine.foo=1", "there are engine.name"),
        ("+aux.foo=1", "there are aux.depth, aux.hidden, aux.name, aux.trained"),
        ("+logger.foo=1", "there are logger.entity, "),
        ("+trainer.foo=1", "there are trainer.accelerator, "),
        ("trainer.min_epoch=2", "did you mean trainer.max_epochs?"),  # not min_epochs, which a run cannot honour
        ("data.seed=1", "did you mean seed?"),  # given by the run
        ("aux.width=1", "did you mean model.width?"),
    ],
)
def test_a_setting_that_nothing_reads_is_refused_with_the_nearest_that_exist(override, nearest):
    message = refusal(override)
    assert message.startswith(f"{override.lstrip('+')} is not possible, nothing reads it: {nearest}")
    assert "trainer.callbacks" not in message


def test_a_setting_that_a_callback_does_not_have_is_refused():
    message = refusal("callbacks=early_stopping", "callbacks.early_stopping.patienc=3")
    assert message.endswith("nothing reads it: did you mean callbacks.early_stopping.patience?")


def test_a_setting_of_another_choice_is_refused():
    assert "there are aux.hidden, aux.name, aux.pool" in refusal("aux=linear", "aux.depth=2")


def test_a_setting_in_python_is_refused_where_nothing_reads_it():
    cfg = load_config()
    with pytest.raises(ConfigAttributeError):
        cfg.model.widht = 0.5
    OmegaConf.update(cfg, "model.widht", 0.5, force_add=True)
    with pytest.raises(UnknownSettingError, match=r"did you mean model\.width\?"):
        check_config(cfg)


OWN = """
from fglight.estimators import RandomGuess

class Closed(RandomGuess):
    def __init__(self, density=0.1, directions=1):
        super().__init__(directions)

    def sample(self, like):
        return like

class Open(Closed):
    def __init__(self, **settings):
        super().__init__(directions=settings.pop("directions"))

def made(density, **settings):
    return Closed(density)

broken = 3
"""


def test_components_of_one_s_own_have_settings_of_their_own(tmp_path, monkeypatch):
    (tmp_path / "own_guesses.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)

    def own(name, *overrides):
        return ["guess=gaussian", "~guess.combine", "~guess.rescale", f"guess._target_=own_guesses.{name}", *overrides]

    for name, overrides in (
        ("Closed", ["guess.density=0.5"]),
        ("Open", ["guess.any=1"]),
        ("made", ["guess.density=1"]),
    ):
        estimator = build_estimator(load_config(own(name, *overrides)))
        assert type(estimator.guess).__name__ in ("Closed", "Open")
    assert "guess.densty=0.5 is not possible, nothing reads it: did you mean guess.density?" in refusal(
        *own("Closed", "guess.densty=0.5")
    )
    for name, reason in (("broken", "3 is not a callable"), ("Gone", "has no attribute 'Gone'")):
        assert refusal(*own(name)).startswith(f"guess._target_=own_guesses.{name} is not possible: ")
        assert reason in refusal(*own(name))
    assert "No module named 'gone'" in refusal("guess._target_=gone.Guess")
    assert refusal("~guess._target_") == "guess._target_=None is not possible: accepted is the name of a class"


@pytest.mark.parametrize("override", ["guess==local", "data.mean=[0.1", "guess", "optim.lr=range(1,"])
def test_an_override_that_cannot_be_read_is_told_in_one_line(override):
    assert refusal(override).startswith(f"{override} cannot be read (")


def test_an_interpolation_that_leads_nowhere_is_told_in_one_line():
    assert refusal("optim.lr=${nothing}") == "optim.lr has no value: Interpolation key 'nothing' not found"
    assert refusal("seed=${nothing}") == "seed has no value: Interpolation key 'nothing' not found"


@pytest.mark.parametrize(
    ("override", "setting", "value"),
    [
        (
            "model.network._target_=torchvision.models.resnet18",
            "model.network",
            "{'_target_': 'torchvision.models.resnet18'}",
        ),
        ("guess.name=[mine]", "guess.name", "['mine']"),
    ],
)
def test_a_name_that_is_none_is_refused(override, setting, value):
    assert refusal(override) == f"{setting}={value} is not possible: accepted is a name"


@pytest.mark.parametrize("override", ["table=3", "seeds=0", "plan=true"])
def test_what_belongs_to_a_sweep_is_refused_in_a_run(override):
    assert f"{override} belongs to a sweep" in refusal(override)


# Lightning's Trainer

NOT_HONOURED = {  # what to use instead
    "accumulate_grad_batches=2": "data.batch_size",
    "barebones=true": "logger.mode=disabled",
    "callbacks=early_stopping": "callbacks=early_stopping",
    "check_val_every_n_epoch=2": "trainer.limit_val_batches",
    "default_root_dir=runs": "hydra.run.dir",
    "enable_autolog_hparams=false": "logger.mode",
    "enable_checkpointing=false": "last.ckpt",
    "gradient_clip_algorithm=norm": "clip_norm",
    "gradient_clip_val=1.0": "clip_norm",
    "limit_predict_batches=2": "trainer.limit_val_batches",
    "limit_test_batches=2": "trainer.limit_val_batches",
    "logger=false": "logger.mode",
    "min_epochs=2": "trainer.max_epochs",
    "min_steps=2": "trainer.max_epochs",
    "model_registry=mine": "last.ckpt",
    "num_nodes=2": "hydra/launcher",
    "num_sanity_val_steps=2": "trainer.fast_dev_run",
    "overfit_batches=2": "trainer.limit_train_batches",
    "plugins=[]": "trainer.precision",
    "profiler=simple": "pytorch",
    "reload_dataloaders_every_n_epochs=0": "1",
    "use_distributed_sampler=true": "false",
    "val_check_interval=0.5": "trainer.limit_val_batches",
}
SHORTENED = {
    "fast_dev_run": ("true", "3"),
    "limit_train_batches": ("1", "0.5", "1.0"),
    "limit_val_batches": ("1", "0.5"),
    "max_steps": ("1", "-1"),
    "max_time": ("00:00:00:01", "{minutes:90}"),
}
WITHOUT_EFFECT = {
    "benchmark": ("true",),
    "detect_anomaly": ("true",),
    "deterministic": ("true", "warn"),
    "enable_model_summary": ("true",),
    "inference_mode": ("false",),
    "profiler": ("pytorch",),
}
NO_VALUE = {
    "benchmark": ("fast",),
    "detect_anomaly": (1,),
    "deterministic": ("yes",),
    "enable_model_summary": (1,),
    "fast_dev_run": (-1, 0, 0.5),
    "inference_mode": ("no",),
    "limit_train_batches": (0, 0.0, 1.5, -1, True, "half"),
    "limit_val_batches": (0, 0.0, 1.5),
    "max_steps": (0, -2, 1.5, "many"),
    "max_time": (60, "1h", "00:00:00:00", {"minutes": 0}, {"moons": 1}),
}


@pytest.mark.parametrize(
    ("callback", "message"),
    [
        ("+callbacks.mine=3", "callbacks.mine._target_=3 is not possible: accepted is the name of a class"),
        ("+callbacks.mine._target_=gone.Away", "callbacks.mine._target_=gone.Away is not possible: No module named"),
        ("+callbacks.mine._target_=pathlib.Path", "is not possible: accepted is a callback of Lightning's"),
        ("+callbacks.mine._target_=lightning.pytorch.callbacks.ModelCheckpoint", "leave it out, checkpoints/last.ckpt"),
        ("+callbacks.mine._target_=lightning.pytorch.callbacks.RichProgressBar", "trainer.enable_progress_bar"),
        (
            "+callbacks.early_stopping.mode=up",
            "callbacks.early_stopping is not possible: `mode` can be",
        ),
    ],
)
def test_a_callback_that_a_run_cannot_have_is_refused_in_one_line(callback, message):
    chosen = ["callbacks=early_stopping"] if "early" in callback else []
    with pytest.raises(ConfigError) as caught:
        build_callbacks(load_config([*chosen, callback.lstrip("+") if chosen else callback]))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_callbacks_are_differences_and_none_is_none():
    assert not [name for name in differences(load_config()) if name.startswith("callbacks")]
    assert "callbacks.early_stopping.patience" in differences(load_config(["callbacks=[early_stopping]"]))


def test_every_option_of_the_trainer_has_been_thought_of():
    options = {name.partition("=")[0] for name in NOT_HONOURED} | SHORTENED.keys() | WITHOUT_EFFECT.keys()
    assert options | set(load_config().trainer) == set(inspect.signature(lightning.Trainer).parameters)


@pytest.mark.parametrize("option", NOT_HONOURED)
def test_an_option_that_cannot_be_honoured_is_refused_with_what_to_use_instead(option):
    name, _, value = option.partition("=")
    cfg = compose()
    OmegaConf.update(cfg, f"trainer.{name}", yaml.safe_load(value), force_add=True)
    with pytest.raises(ConfigError) as caught:
        check_config(cfg)
    message = str(caught.value)
    assert message.startswith(f"trainer.{name}={cfg.trainer[name]} is not possible: accepted is ")
    assert NOT_HONOURED[option] in message
    assert "\n" not in message
    cfg.trainer[name] = None  # as if it were not given
    check_config(cfg)


def test_options_that_can_be_honoured_need_no_plus():
    chosen = {**SHORTENED, **WITHOUT_EFFECT}
    for number in range(3):
        overrides = [f"trainer.{name}={values[min(number, len(values) - 1)]}" for name, values in chosen.items()]
        assert load_config(overrides).trainer == load_config([f"+{override}" for override in overrides]).trainer


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in NO_VALUE.items() for value in values])
def test_a_value_that_lightning_would_refuse_is_refused_first(name, value):
    cfg = compose()
    OmegaConf.update(cfg, f"trainer.{name}", value, force_add=True)
    with pytest.raises(ConfigError) as caught:
        check_config(cfg)
    assert str(caught.value).startswith(f"trainer.{name}={value} is not possible: accepted is ")
    assert "\n" not in str(caught.value)


# Builders


def test_the_exact_guess_ignores_the_perturbation():
    for perturb in PERTURBATIONS:
        assert isinstance(build_estimator(compose(guess="exact", perturb=perturb)).perturbation, Unprojected)


def test_an_estimator_has_three_parts():
    estimator = build_estimator(load_config(["target=local", "guess=ntk", "perturb=activity"]))
    assert type(estimator.target).__name__ == "LocalTarget"
    assert type(estimator.guess).__name__ == "NTKGuess"
    assert isinstance(estimator.perturbation, ActivityPerturbation)


def test_synchronised_batch_norm_is_refused_where_its_statistics_are_not_known():
    settings = {"trainer.sync_batchnorm": True, "trainer.devices": 2}
    with pytest.raises(ConfigError, match=r"trainer\.sync_batchnorm=true cannot go with perturb=weight_per_sample"):
        check_config(compose(settings, perturb="weight_per_sample"))
    check_config(compose(settings, perturb="weight"))
