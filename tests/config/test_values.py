"""A value that a setting cannot have is refused in one line that says what it must be."""

import re

import pytest
from helpers import compose
from omegaconf import OmegaConf

from fglight import load_config
from fglight.config import check_config
from fglight.config.rules import MODELS
from fglight.config.values import check_values
from fglight.errors import ConfigError, FglightError

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
    "ckpt_path": (1, True),
    "checkpointing": (1,),
    "logger.mode": ("sometimes", None),
}


@pytest.mark.parametrize(("setting", "value"), [(s, value) for s, values in OUT_OF_RANGE.items() for value in values])
def test_a_value_out_of_range_names_setting_value_and_what_it_must_be(setting, value):
    cfg = compose({setting: value})
    with pytest.raises(ConfigError) as caught:
        check_config(cfg)
    message = str(caught.value)
    assert message.startswith(f"{setting} must be ")
    assert message.endswith(f", got {value}")
    assert "\n" not in message


def test_what_it_must_be_is_said_of_every_setting_that_is_checked():
    settings = OmegaConf.to_container(compose(), resolve=True)
    check_values(settings, settings)
    for group, model in MODELS.items():
        for name in model.model_fields:
            wrong = [{"nothing": 1}]
            changed = settings | ({group: settings[group] | {name: wrong}} if group else {name: wrong})
            with pytest.raises(ConfigError) as caught:
                check_values(changed, changed)
            setting = f"{group}.{name}".lstrip(".")
            assert re.match(rf"{setting} must be \w.*, got {re.escape(str(wrong))}", str(caught.value))


def test_settings_that_may_be_null_still_may():
    assert load_config(["aux.hidden=null", "table=null"]).aux.hidden is None


def test_an_override_out_of_range_is_refused_on_loading():
    with pytest.raises(ConfigError, match=r"^trainer\.max_epochs must be .*, got -3"):
        load_config(["trainer.max_epochs=-3"])


def test_what_is_refused_is_an_error_for_users():
    assert issubclass(ConfigError, FglightError)
    assert issubclass(ConfigError, ValueError)
