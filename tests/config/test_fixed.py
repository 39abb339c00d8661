"""The options of Lightning's Trainer: which a run honours, which it decides on, and which values they may have."""

import inspect

import lightning
import pytest
import yaml
from helpers import compose
from omegaconf import OmegaConf

from fglight import load_config
from fglight.config import check_config
from fglight.errors import ConfigError

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


def test_every_option_of_the_trainer_has_been_thought_of():
    options = {name.partition("=")[0] for name in NOT_HONOURED} | SHORTENED.keys() | WITHOUT_EFFECT.keys()
    ours = {"max_forwards"}
    assert options | set(load_config().trainer) == set(inspect.signature(lightning.Trainer).parameters) | ours


@pytest.mark.parametrize("option", NOT_HONOURED)
def test_an_option_that_cannot_be_honoured_is_refused_with_what_to_use_instead(option):
    name, _, value = option.partition("=")
    cfg = compose()
    OmegaConf.update(cfg, f"trainer.{name}", yaml.safe_load(value), force_add=True)
    with pytest.raises(ConfigError) as caught:
        check_config(cfg)
    message = str(caught.value)
    assert message.startswith(f"trainer.{name} must be ")
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
    assert str(caught.value).startswith(f"trainer.{name} must be ")
    assert "\n" not in str(caught.value)
