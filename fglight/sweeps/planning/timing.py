"""How long a step of a configuration takes on this machine."""

import time
from collections.abc import Callable
from functools import partial

import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from fglight.build import build_estimator, build_model

SMALL_BATCHES, PATIENCE = (2, 8), 2.0
"""Images a step, and what it is measured with where a whole batch would take more than this many seconds."""

LONG = 0.3
"""Seconds from which on one step is enough: what disturbs it for a moment is then a small part of it."""


def seconds_per_image(cfg: DictConfig, steps: int = 1) -> tuple[float, float]:
    """Measure a few steps of a configuration on random images.

    Args:
        cfg: the configuration.
        steps: how many are measured of each batch size, after one to warm up; of long steps one is. The fastest counts,
            since what else the machine does only makes steps slower.

    Returns:
        Seconds that an image takes in a training step, and in a test step.
    """
    device = device_of(cfg)
    torch.manual_seed(0)
    uncompiled = OmegaConf.merge(cfg, {"compile": False})  # compiling takes longer than all else
    model, estimator = build_model(cfg).to(device), build_estimator(uncompiled)
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

    def seconds(step: Callable[[tuple[Tensor, Tensor]], None], size: int, times: int = steps) -> float:
        batch = _random_batch(cfg, size, device)
        best = _seconds(partial(step, batch), device)
        for _ in range(times - 1 if best < LONG else 0):
            best = min(best, _seconds(partial(step, batch), device))
        return best

    few, more, whole = *SMALL_BATCHES, cfg.data.batch_size
    seconds(train, few, 1)  # to warm up
    least, training = seconds(train, few), seconds(train, more)
    # Drawing directions and updating weights take the same time for any number of images; the rest is each image's.
    each = min(max((training - least) / (more - few), 0), training / more)
    expected = training + each * (whole - more)
    if expected > PATIENCE:
        return expected / whole, seconds(test, more) / more
    seconds(train, whole, 1)
    seconds(test, whole, 1)
    return seconds(train, whole) / whole, seconds(test, whole) / whole


def device_of(cfg: DictConfig) -> torch.device:
    """Where a configuration runs."""
    return torch.device("cuda" if torch.cuda.is_available() and cfg.trainer.accelerator != "cpu" else "cpu")


def _random_batch(cfg: DictConfig, size: int, device: torch.device) -> tuple[Tensor, Tensor]:
    images = torch.randn(size, cfg.data.in_channels, cfg.data.image_size, cfg.data.image_size, device=device)
    return images, torch.randint(cfg.data.num_classes, (size,), device=device)


def _seconds(step: Callable[[], None], device: torch.device) -> float:
    start = _now(device)
    step()
    return _now(device) - start


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
