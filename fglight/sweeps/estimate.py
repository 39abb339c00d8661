"""What a sweep would run, and how long that takes on this machine."""

import json
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch
from omegaconf import DictConfig
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor

from fglight.config import build_estimator, build_model
from fglight.rundir import State, run_settings
from fglight.sweeps.jobs import Job, by_name
from fglight.sweeps.progress import duration

IMAGES = {
    "digits": (1437, 360),
    "fashion_mnist": (60_000, 10_000),
    "cifar10": (50_000, 10_000),
    "cifar100": (50_000, 10_000),
    "imagenet32": (1_281_167, 50_000),
    "imagenette": (9469, 3925),
}
"""Training and test images of each data set, whose files need not be there."""

SMALL_BATCHES, PATIENCE = (2, 8), 2.0
"""Images a step, and what it is measured with where a whole batch would take more than this many seconds."""


def show_plan(jobs: Sequence[Job], configs: Mapping[str, DictConfig], states: Mapping[Job, State]) -> None:
    """Print what would run, how much of it is done, and how long the rest takes on this machine."""
    measured: dict[str, tuple[float, float]] = {}
    table = Table()
    table.add_column("runs", overflow="fold")
    for column in ("seeds", "to do", "lr", "epochs", "time each"):
        table.add_column(column, no_wrap=column != "to do")
    total, runs = 0.0, 0
    groups = by_name(jobs)
    console = Console()
    kinds = len({_kind(cfg) for cfg in configs.values()})
    print(f"{len(groups)} cells, {len(jobs)} runs: measuring a few steps of each of {kinds} kinds", flush=True)
    for name, group in track(
        groups.items(), "measuring a few steps of each", transient=True, disable=not console.is_terminal
    ):
        cfg = configs[name]
        if _kind(cfg) not in measured:
            measured[_kind(cfg)] = seconds_per_image(cfg)
        seconds = run_seconds(cfg, *measured[_kind(cfg)])
        left = sum(states[job] not in (State.FINISHED, State.RUNNING) for job in group)
        total += left * seconds
        runs += left
        counts = Counter(str(states[job]) for job in group)
        table.add_row(
            name,
            ",".join(str(job.seed) for job in group),
            ", ".join(f"{count} {state}" for state, count in counts.items()),
            f"{cfg.optim.lr:g}",
            str(cfg.trainer.max_epochs),
            duration(seconds),
        )
    console.print(table)
    print(
        f"{len(groups)} cells, {len(jobs)} runs, {runs} of them to do: about {duration(total)} one after the other "
        f"on {_device(next(iter(configs.values()))).type}, measured on random images. Nothing was started."
    )


def run_seconds(cfg: DictConfig, train: float, test: float) -> float:
    """How long a run takes, from the seconds of an image in training and in testing."""
    training, testing = IMAGES[cfg.data.name]
    if cfg.data.holdout:
        training, testing = training * (1 - cfg.data.holdout), training * cfg.data.holdout
    return cfg.trainer.max_epochs * (training * train + testing * test)


def seconds_per_image(cfg: DictConfig, steps: int = 2) -> tuple[float, float]:
    """Measure a few steps of a configuration on random images.

    Args:
        cfg: the configuration.
        steps: how many are measured of whole batches, after one to warm up.

    Returns:
        Seconds that an image takes in a training step, and in a test step.
    """
    device = _device(cfg)
    torch.manual_seed(0)
    model, estimator = build_model(cfg).to(device), build_estimator(cfg)
    optimizer = torch.optim.SGD(estimator.trained_parameters(model), lr=1e-6, momentum=0.9)

    def train(batch: tuple[Tensor, Tensor]) -> None:
        estimator.estimate(model, *batch)
        optimizer.step()

    @torch.no_grad()
    def test(batch: tuple[Tensor, Tensor]) -> None:
        hidden, labels = batch
        for block in model.blocks:
            hidden = block.body(hidden)
            if estimator.evaluates_auxiliaries or block is model.blocks[-1]:
                block.loss(hidden, labels)

    def seconds(step: Callable[[tuple[Tensor, Tensor]], None], size: int, times: int) -> float:
        batch = _random_batch(cfg, size, device)
        return _seconds(partial(step, batch), times, device)

    few, more, whole = *SMALL_BATCHES, cfg.data.batch_size
    seconds(train, few, 1)  # to warm up
    least, training = seconds(train, few, 1), seconds(train, more, 1)
    # Drawing directions and updating weights take the same time for any number of images; the rest is each image's.
    each = min(max((training - least) / (more - few), 0), training / more)
    expected = training + each * (whole - more)
    if expected > PATIENCE:
        return expected / whole, seconds(test, more, 1) / more
    seconds(train, whole, 1)
    seconds(test, whole, 1)
    return seconds(train, whole, steps) / whole, seconds(test, whole, steps) / whole


def parameter_count(cfg: DictConfig) -> int:
    """How many parameters a configuration's network has, auxiliary networks included."""
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in build_model(cfg).parameters())


def _kind(cfg: DictConfig) -> str:
    """What decides on the time of a step; the number of classes hardly does."""
    settings = run_settings(cfg)
    shape = {key: settings["data"][key] for key in ("in_channels", "image_size", "batch_size")}
    parts = {key: settings[key] for key in ("target", "guess", "perturb", "aux", "model", "probe")}
    return json.dumps({**parts, **shape}, sort_keys=True)


def _device(cfg: DictConfig) -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() and cfg.trainer.accelerator != "cpu" else "cpu")


def _random_batch(cfg: DictConfig, size: int, device: torch.device) -> tuple[Tensor, Tensor]:
    images = torch.randn(size, cfg.data.in_channels, cfg.data.image_size, cfg.data.image_size, device=device)
    return images, torch.randint(cfg.data.num_classes, (size,), device=device)


def _seconds(step: Callable[[], None], times: int, device: torch.device) -> float:
    start = _now(device)
    for _ in range(times):
        step()
    return (_now(device) - start) / times


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
