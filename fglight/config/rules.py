"""Which values settings may have, and which options of Lightning's Trainer a run has."""

import math
import re
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any

PRECISIONS = ("32-true", "64-true", "bf16-mixed", "bf16-true")


def _whole(minimum: int) -> Callable[[Any], bool]:
    return lambda value: type(value) is int and value >= minimum


def _number(accepts: Callable[[float], bool]) -> Callable[[Any], bool]:
    return lambda value: type(value) in (int, float) and math.isfinite(value) and accepts(value)


_positive = _number(lambda value: value > 0)
_factor = _number(lambda value: 0 < value <= 1)


def _flag(value: object) -> bool:
    return type(value) is bool


def _tag(value: object) -> bool:
    """Whether Weights & Biases takes it as a tag."""
    return type(value) in (str, int, float) and 1 <= len(str(value)) <= 64


def _one_of(*values: object) -> Callable[[Any], bool]:
    return lambda value: any(type(value) is type(other) and value == other for other in values)


def _or_null(accepts: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: value is None or accepts(value)


def _share(value: object) -> bool:
    return _whole(1)(value) or (type(value) is float and 0 < value <= 1)


def _duration(value: Any) -> bool:
    if isinstance(value, dict):
        return timedelta(**value) > timedelta()
    return re.fullmatch(r"\d+:\d\d:\d\d:\d\d", value) is not None and re.search("[1-9]", value) is not None


RULES: list[tuple[str, Callable[[Any], bool], str]] = [
    ("seed", lambda value: _whole(0)(value) and value < 2**32, "a whole number from 0 to 2**32 - 1"),
    ("probe", _flag, "true or false"),
    ("cosine", _flag, "true or false"),
    ("compile", _flag, "true or false"),
    ("check", _flag, "true or false"),
    ("channels_last", _flag, "true or false"),
    ("aux.hidden", _or_null(_whole(1)), "null (the default) or a whole number from 1 on"),
    ("aux.trained", _flag, "true or false"),
    ("data.num_classes", _whole(2), "a whole number from 2 on"),
    ("data.in_channels", _whole(1), "a whole number from 1 on"),
    ("data.image_size", _whole(1), "a whole number from 1 on"),
    ("data.batch_size", _whole(2), "a whole number from 2 on (batch norm needs two)"),
    ("clip_norm", _or_null(_positive), "null or a positive number"),
    ("scheduler.interval", _one_of("epoch", "step"), "epoch or step"),
    ("trainer.max_epochs", _whole(1), "a whole number from 1 on"),
    ("trainer.accelerator", _one_of("auto", "cpu", "gpu", "cuda", "mps"), "auto, cpu, gpu, cuda or mps"),
    (
        "trainer.devices",
        lambda value: _whole(1)(value) or (isinstance(value, list) and len(value) > 0 and all(map(_whole(0), value))),
        "a number of devices, or their indices as in [0,1]",
    ),
    ("trainer.strategy", lambda value: value in ("auto", "ddp"), "auto or ddp"),
    ("trainer.sync_batchnorm", _flag, "true or false"),
    ("trainer.log_every_n_steps", _whole(1), "a whole number from 1 on"),
    ("trainer.enable_progress_bar", _flag, "true or false"),
    ("trainer.precision", lambda value: value in PRECISIONS, ", ".join(PRECISIONS)),
    (
        "logger.mode",
        lambda value: value in ("offline", "online", "disabled"),
        "offline, online or disabled (where it is not given, WANDB_MODE in the environment counts)",
    ),
    *(
        (f"{group}.name", _tag, "a name of 1 to 64 characters, which is a tag on Weights & Biases")
        for group in ("data", "model", "target", "guess", "aux", "perturb")
    ),
    (
        "logger.tags",
        lambda value: isinstance(value, list) and all(map(_tag, value)),
        "a list of tags of 1 to 64 characters",
    ),
    (
        "logger.project",
        _or_null(lambda value: 1 <= len(str(value)) <= 128 and not set("/\\#?%:") & set(str(value))),
        "a name of 1 to 128 characters, none of them / \\ # ? % or :",
    ),
]
"""Settings, whether a value of theirs is accepted, and what is, in words."""

OPTIONAL: list[tuple[str, Callable[[Any], bool], str]] = [
    ("model.blocks", _whole(1), "a whole number from 1 on"),
    ("model.width", _number(lambda value: value * 64 >= 1), "a number from 1/64 on, which leaves one channel"),
    ("model.stem", _one_of("cifar", "imagenet"), "cifar or imagenet"),
    ("optim.lr", _positive, "a positive number"),
    ("optim.momentum", _number(lambda value: 0 <= value < 1), "a number from 0 to below 1"),
    ("optim.weight_decay", _number(lambda value: value >= 0), "a number from 0 on"),
    ("optim.fused", _or_null(_flag), "true, false or null"),
    ("scheduler.step_size", _whole(1), "a whole number from 1 on"),
    ("scheduler.gamma", _factor, "a number above 0, up to 1"),
    ("scheduler.T_max", _whole(1), "a whole number from 1 on"),
    ("scheduler.factor", _factor, "a number above 0, up to 1"),
    ("aux.depth", _whole(1), "a whole number from 1 on"),
    ("aux.pool", _whole(1), "a whole number from 1 on"),
    ("aux.scale", _positive, "a positive number"),
    ("data.augment", _flag, "true or false"),
    ("data.download", _flag, "true or false"),
    ("data.resize", _flag, "true or false"),
    ("data.stream", _or_null(_flag), "true, false or null (false up to a gigabyte)"),
    ("data.num_workers", _whole(0), "a whole number from 0 on"),
    ("data.holdout", _number(lambda value: 0 <= value < 1), "a number from 0 to below 1"),
]
"""The same for settings of components that ship, which components of one's own need not have."""


def parts_rule(choices: Mapping[str, Mapping[str, Any]]) -> tuple[str, Callable[[Any], bool], str]:
    """The rule for the auxiliary networks that stand side by side, by what there is of them."""
    known = [name for name, choice in choices.items() if "parts" not in choice]

    def accepts(value: Any) -> bool:
        return isinstance(value, list) and 0 < len(value) == len({*value}) and {*value} <= {*known}

    return "aux.parts", accepts, f"a list of {', '.join(known)}, each at most once"


FIXED: dict[str, tuple[Any, str]] = {
    "accumulate_grad_batches": (1, "data.batch_size is how many images a step takes"),
    "barebones": (False, "logger.mode=disabled and trainer.enable_progress_bar=false come near to it"),
    "callbacks": (None, "callbacks=early_stopping, or a file of yours in that group, adds some"),
    "check_val_every_n_epoch": (1, "trainer.limit_val_batches makes the evaluation after an epoch shorter"),
    "default_root_dir": (None, "hydra.run.dir is where a run goes, hydra.sweep.dir where a sweep does"),
    "enable_autolog_hparams": (True, "the complete configuration is logged whenever logger.mode is not disabled"),
    "enable_checkpointing": (True, "checkpoints/last.ckpt is what an interrupted run goes on from"),
    "gradient_clip_algorithm": (None, "clip_norm clips the gradients' total norm"),
    "gradient_clip_val": (None, "clip_norm clips the gradients' total norm"),
    "limit_predict_batches": (None, "trainer.limit_val_batches is for the test set"),
    "limit_test_batches": (None, "trainer.limit_val_batches is for the test set"),
    "logger": (None, "logger.mode chooses whether Weights & Biases is beside the CSV files"),
    "min_epochs": (None, "trainer.max_epochs is how many a run has"),
    "min_steps": (None, "trainer.max_epochs is how long a run is"),
    "model_registry": (None, "checkpoints/last.ckpt in the run directory is the trained network"),
    "num_nodes": (1, "hydra/launcher=ray and submitit_slurm put the runs of a sweep on several machines"),
    "num_sanity_val_steps": (0, "trainer.fast_dev_run=true tries one batch of training and of testing"),
    "overfit_batches": (0, "trainer.limit_train_batches trains on a part of each epoch"),
    "plugins": (None, "trainer.precision and trainer.strategy choose among those that work"),
    "reload_dataloaders_every_n_epochs": (1, "every epoch has an order of its own"),
    "use_distributed_sampler": (False, "data sets share batches out by themselves"),
    "val_check_interval": (1.0, "trainer.limit_val_batches makes the evaluation after an epoch shorter"),
}
"""Options of Lightning's Trainer that a run decides on: how, and what to use instead of another value."""

LIGHTNING: dict[str, tuple[Callable[[Any], bool], str]] = {
    "benchmark": (_flag, "true or false"),
    "detect_anomaly": (_flag, "true or false"),
    "deterministic": (_one_of(True, False, "warn"), "true, false or warn"),
    "enable_model_summary": (_flag, "true or false"),
    "fast_dev_run": (lambda value: _flag(value) or _whole(1)(value), "true, false or a number of batches from 1 on"),
    "inference_mode": (_flag, "true or false"),
    "limit_train_batches": (_share, "a number of batches from 1 on, or a fraction above 0.0, up to 1.0"),
    "limit_val_batches": (
        _share,
        "a number of batches from 1 on, or a fraction above 0.0, up to 1.0 (test accuracy is a run's result)",
    ),
    "max_steps": (lambda value: value == -1 or _whole(1)(value), "a whole number from 1 on, or -1 for no limit"),
    "max_time": (_duration, "days, hours, minutes and seconds above 0, as in 00:01:30:00 or {minutes: 90}"),
    "profiler": (_one_of("pytorch"), "pytorch, which leaves its traces beside the metrics"),
    **{
        name: (_one_of(value), f"{'null' if value is None else str(value).lower()} ({instead})")
        for name, (value, instead) in FIXED.items()
    },
}
"""Options of Lightning's Trainer that conf/trainer does not list; null is as if they were not given."""
