"""Which values settings may have, as pydantic models: one for the root of a configuration, one for each group."""

import re
from datetime import timedelta
from typing import Annotated, Any, Literal

from annotated_types import Len, Predicate
from pydantic import BaseModel, ConfigDict, Field, create_model, model_validator

from fglight.config.fixed import FIXED

Whole = Annotated[int, Field(ge=1)]
Number = Annotated[float, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
Fraction = Annotated[float, Field(gt=0, le=1)]
BelowOne = Annotated[float, Field(ge=0, lt=1)]
Batches = Annotated[int, Field(ge=1, description="a number of batches from 1 on")]
Share = Annotated[float, Field(gt=0, le=1, description="a fraction above 0.0, up to 1.0")]
Tag = Annotated[
    str | int | float,
    Predicate(lambda value: 1 <= len(str(value)) <= 64),
    Field(description="a name of 1 to 64 characters, which is a tag on Weights & Biases"),
]
Clock = Annotated[str, Field(pattern=r"^\d+:\d\d:\d\d:\d\d$"), Predicate(lambda value: re.search("[1-9]", value))]
Span = Annotated[
    dict[Literal["days", "hours", "minutes", "seconds"], float],
    Predicate(lambda value: timedelta(**value) > timedelta()),
]

OPEN: Any = None
"""The default of a setting that need not be there: components of one's own may have no such setting."""


class Settings(BaseModel):
    """Settings whose values are checked; others, such as those of one's own components, may have any."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False)


class Root(Settings):
    """Those of ``config.yaml``."""

    seed: Annotated[int, Field(ge=0, lt=2**32)]
    probe: bool
    cosine: bool
    checkpointing: bool
    micro_batches: Whole
    checkpoint: Literal["full", "seeds"]
    exact_blocks: Annotated[int, Field(ge=0)]
    trained: Literal["all", "head", "bias", "norm", "lora"]
    measure: bool
    compile: bool | Literal["cudagraphs"]
    check: bool
    verify: bool
    channels_last: bool
    clip_norm: Positive | None
    ckpt_path: Annotated[str, Field(description="the folder of a run, or a checkpoint in one")] | None


class Component(Settings):
    """Those of every component that names a run."""

    name: Tag


class Aux(Component):
    """Those of auxiliary networks."""

    hidden: Whole | None = OPEN
    trained: bool
    depth: Whole = OPEN
    pool: Whole = OPEN
    scale: Positive = OPEN


class Data(Component):
    """Those of data sets."""

    num_classes: Whole
    in_channels: Whole
    image_size: Whole
    batch_size: Annotated[int, Field(ge=2, description="a whole number from 2 on (batch norm needs two)")]
    augment: bool = OPEN
    download: bool = OPEN
    resize: bool = OPEN
    stream: Annotated[bool | None, Field(description="true, false or null (false up to a gigabyte)")] = OPEN
    num_workers: Annotated[int, Field(ge=0)] = OPEN
    holdout: BelowOne = OPEN
    tokens: bool = OPEN
    length: Annotated[int, Field(ge=2, description="a number of tokens from 2 on")] = OPEN
    test: Annotated[float, Field(gt=0, lt=1)] | None = OPEN
    train_images: Annotated[int, Field(ge=2, description="a whole number from 2 on")] | None = OPEN


class Engine(Settings):
    """Those of engines."""

    step: Positive | None = OPEN
    redraw: bool = OPEN


class Lora(Settings):
    """Those of low-rank adapters."""

    rank: Whole
    alpha: Whole


class Model(Component):
    """Those of networks."""

    blocks: Whole = OPEN
    width: Annotated[float, Field(ge=1 / 64, description="a number from 1/64 on, which leaves one channel")] = OPEN
    stem: Literal["cifar", "imagenet"] = OPEN


class Optim(Settings):
    """Those of optimizers."""

    lr: Positive = OPEN
    block_lr: Positive | None = OPEN
    decay_vectors: bool = OPEN
    momentum: BelowOne = OPEN
    weight_decay: Number = OPEN
    fused: bool | None = OPEN


class Scheduler(Settings):
    """Those of learning rate schedules."""

    interval: Literal["epoch", "step"]
    warmup: Annotated[int, Field(ge=0, description="a number of steps from 0 on")] = OPEN
    step_size: Whole = OPEN
    gamma: Fraction = OPEN
    T_max: Whole = OPEN
    factor: Fraction = OPEN


class Loss(Component):
    """Those of losses."""

    metrics: Annotated[dict[str, Any], Field(description="metrics by name, each with its _target_, or {} for none")]


class Logger(Settings):
    """Those of Weights & Biases."""

    mode: Annotated[
        Literal["offline", "online", "disabled"],
        Field(description="offline, online or disabled (where it is not given, WANDB_MODE in the environment counts)"),
    ]
    tags: Annotated[list[Tag], Field(description="a list of tags of 1 to 64 characters")]
    project: Annotated[
        Annotated[str | int | float, Predicate(lambda value: re.fullmatch(r"[^/\\#?%:]{1,128}", str(value)))] | None,
        Field(description="a name of 1 to 128 characters, none of them / \\ # ? % or :"),
    ]


class _Options(Settings):
    """Those of Lightning's Trainer that a run does not decide on."""

    max_epochs: Whole
    accelerator: Literal["auto", "cpu", "gpu", "cuda", "mps"]
    devices: Annotated[
        Whole | Annotated[list[Annotated[int, Field(ge=0)]], Len(1)],
        Field(description="a number of devices, or their indices as in [0,1]"),
    ]
    strategy: Literal["auto", "ddp"]
    sync_batchnorm: bool
    precision: Literal["32-true", "64-true", "bf16-mixed", "bf16-true"]
    log_every_n_steps: Whole
    enable_progress_bar: bool
    benchmark: bool = OPEN
    detect_anomaly: bool = OPEN
    deterministic: bool | Literal["warn"] = OPEN
    enable_model_summary: bool = OPEN
    fast_dev_run: bool | Batches = OPEN
    inference_mode: bool = OPEN
    limit_train_batches: Batches | Share = OPEN
    max_forwards: Annotated[Positive, Field(description="a number of forward passes above 0")] = OPEN
    limit_val_batches: Annotated[
        Batches | Share,
        Field(description="a number of batches from 1 on, or a fraction above 0.0 (test accuracy is a run's result)"),
    ] = OPEN
    max_steps: Whole | Annotated[Literal[-1], Field(description="-1 for no limit")] = OPEN
    max_time: Annotated[
        Clock | Span,
        Field(description="days, hours, minutes and seconds above 0, as in 00:01:30:00 or {minutes: 90}"),
    ] = OPEN
    profiler: Annotated[Literal["pytorch"], Field(description="pytorch, with its traces beside the metrics")] = OPEN

    @model_validator(mode="before")
    @classmethod
    def given(cls, options: dict[str, Any]) -> dict[str, Any]:
        """The options that are given: null is as if one were not."""
        return {name: value for name, value in options.items() if value is not None}


def _fixed(value: Any, instead: str) -> Any:
    words = "null" if value is None else str(value).lower()
    is_it = Predicate(lambda given: (type(given), given) == (type(value), value))
    return Annotated[Any, is_it, Field(description=f"{words} ({instead})")], OPEN


Trainer = create_model("Trainer", __base__=_Options, **{name: _fixed(*fixed) for name, fixed in FIXED.items()})


class Optuna(Settings):
    """Those of Optuna's sweeper."""

    direction: Literal["maximize"]
    n_trials: Whole
    n_jobs: Whole
    max_failure_rate: Annotated[float, Field(ge=0, le=1)]


Overrides = Annotated[
    str,
    Predicate(lambda text: all("=" in part for part in text.split()) and "guess=" in text),
    Field(description="overrides as on the command line, one of them guess=..."),
]


class StudyFile(Settings):
    """What a study's file says."""

    model_config = ConfigDict(strict=True, extra="forbid")

    title: str
    question: str
    rows: Annotated[
        dict[str, Overrides | dict[str, Overrides]],
        Field(description="names of estimators with overrides, one of them guess=..., by themselves or on a line"),
    ]
    data: str = OPEN
    seeds: Whole = OPEN
    holdout: Annotated[float, Field(gt=0, lt=1)] = OPEN
    settings: dict[str, str | int | float | bool] = OPEN
    rates: Annotated[list[Positive], Len(1), Field(description="a list of learning rates above 0")] = OPEN
    over: Annotated[
        list[Literal["derivatives", "forward_mode", "forwards", "memory", "seconds"]],
        Field(description="a list of derivatives, forward_mode, forwards, memory and seconds"),
    ] = OPEN


MODELS: dict[str, type[Settings]] = {
    "": Root,
    "aux": Aux,
    "data": Data,
    "engine": Engine,
    "guess": Component,
    "logger": Logger,
    "lora": Lora,
    "loss": Loss,
    "model": Model,
    "optim": Optim,
    "perturb": Component,
    "scheduler": Scheduler,
    "target": Component,
    "trainer": Trainer,
}

LIGHTNING = frozenset(name for name, field in Trainer.model_fields.items() if not field.is_required())
"""Options of Lightning's Trainer that conf/trainer does not list."""
