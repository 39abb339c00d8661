"""How long a step, or a part of one, takes on this machine."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from fglight.build import build_estimator, build_model
from fglight.config import input_shape
from fglight.estimators import GradientEstimator
from fglight.models import Block, PooledAuxiliary

FEW, GROWTH, STRIDE = 2, 4, 9
"""Images of the smallest batch that is timed, how many times larger the next ones are, and how many times larger the
second and last is for auxiliary networks, whose time hardly grows at first."""

LONG = 0.7
"""Seconds from which on a step is timed once: what disturbs it for a moment is then a small part of it."""

clock = time.perf_counter
"""Tells the seconds."""


@dataclass(frozen=True)
class Seconds:
    """What a batch takes: seconds of its own, such as those of updating weights, and seconds of each image."""

    step: float = 0.0
    image: float = 0.0

    def of(self, images: float) -> float:
        """Seconds of a batch."""
        return self.step + self.image * images

    def scaled(self, factor: float) -> "Seconds":
        """Both, times a factor."""
        return Seconds(factor * self.step, factor * self.image)


class Network:
    """A configuration's network, whose steps on random images are timed.

    Args:
        cfg: the configuration.
        auxiliaries: whether to have its auxiliary networks; without, they are those that cost least: pooling and a
            linear layer.
    """

    def __init__(self, cfg: DictConfig, *, auxiliaries: bool = False) -> None:
        self.cfg = cfg
        self.device = device_of(cfg)
        with torch.device("meta"):  # to initialise a large network properly takes longer than its steps
            self.blocks = build_model(cfg).blocks
        for block in self.blocks:
            _materialise(block if auxiliaries or block is self.blocks[-1] else block.body, self.device)
            block.use_loss(_any_loss)
        hidden, _ = self._batch(FEW)
        self.outputs = []
        for block in self.blocks[:-1]:
            with torch.no_grad():
                hidden = block.body(hidden)
            self.outputs.append(hidden.shape[1:])
            if not auxiliaries:
                block.aux = PooledAuxiliary(hidden, cfg.data.num_classes).to(self.device)

    def backpropagation(self, enough: float) -> Seconds:
        """A training step of plain backpropagation, without an estimator.

        Args:
            enough: seconds from which on a batch is large enough to go by.
        """
        head = self.blocks[-1]
        optimizer = _optimizer(
            [p for block in self.blocks for p in (block if block is head else block.body).parameters()]
        )

        def step(hidden: Tensor, labels: Tensor) -> None:
            optimizer.zero_grad()
            for block in self.blocks:
                hidden = block.body(hidden)
            head.loss(hidden, labels)[0].backward()
            optimizer.step()

        return self._seconds(step, self._batch, enough, repeats=3)  # on which all else depends

    def training(self, cfg: DictConfig, enough: float) -> Seconds:
        """A training step of a configuration's estimator on this network, after ``backpropagation`` on it.

        Args:
            cfg: the configuration.
            enough: as for ``backpropagation``.
        """
        estimator = _estimator(cfg)
        optimizer = _optimizer(estimator.trained_parameters(self.blocks))

        def step(images: Tensor, labels: Tensor) -> None:
            estimator.estimate(self.blocks, images, labels)
            optimizer.step()

        return self._seconds(step, self._batch, enough, repeats=1)

    def testing(self, enough: float, *, auxiliaries: bool = False) -> Seconds:
        """A test step of this network, and of its auxiliary networks where asked for."""

        @torch.no_grad()
        def step(hidden: Tensor, labels: Tensor) -> None:
            for block in self.blocks:
                hidden = block.body(hidden)
                if auxiliaries or block is self.blocks[-1]:
                    block.loss(hidden, labels)

        return self._seconds(step, self._batch, enough)

    def auxiliaries(self, cfg: DictConfig) -> Seconds:
        """What a configuration's auxiliary networks take by themselves in a training step."""
        estimator = _estimator(cfg)
        if not estimator.evaluates_auxiliaries:
            return Seconds()
        with torch.device("meta"):
            model = build_model(OmegaConf.merge(cfg, {"model": self.cfg.model, "data": self.cfg.data}))
        blocks = [Block(nn.Identity(), block.aux, _any_loss) for block in model.blocks]
        for block in blocks[:-1]:
            _materialise(block, self.device)
        trained = [p for block in blocks[:-1] for p in block.parameters() if estimator.trains_auxiliaries]
        optimizer = _optimizer(trained) if trained else None

        def batch(size: int) -> tuple[Tensor, ...]:
            outputs = [torch.randn(size, *shape, device=self.device) for shape in self.outputs]
            return *outputs, self._batch(size)[1]

        def train(*batch: Tensor) -> None:
            *outputs, labels = batch
            estimator.guess.prepare(blocks)
            for block, output in zip(blocks, outputs):
                output.requires_grad_(estimator.needs_auxiliaries)
                own: list[Tensor] = [*block.parameters()] if trained else []
                loss, _ = block.loss(output, labels)
                gradients = torch.autograd.grad(loss, [output] * output.requires_grad + own, allow_unused=True)
                for parameter, gradient in zip(reversed(own), reversed(gradients)):
                    parameter.grad = gradient
            if optimizer:
                optimizer.step()

        return self._seconds(train, batch, 0, STRIDE)

    def _seconds(
        self,
        step: Callable[..., None],
        batch: Callable[[int], Sequence[Tensor]],
        enough: float,
        growth: int = GROWTH,
        *,
        repeats: int = 2,
    ) -> Seconds:
        """The seconds of a step, from those of the two largest of growing batches.

        Args:
            step: the step.
            batch: makes a batch of a number of images.
            enough: seconds from which on a batch is large enough to go by.
            growth: how many times as large the next batch is.
            repeats: how often a step is timed, unless it is long; the fastest counts.
        """
        most = self.cfg.data.batch_size
        small = large = min(FEW, most)
        less = more = self._best(step, batch(small), repeats)
        while large < most and (more < enough or large == FEW):
            small, less = large, more
            large = min(growth * large, most)
            more = self._best(step, batch(large), repeats)
        if large == small:
            return Seconds(image=more / large)
        # Whatever else the machine did during the small batch, no image takes longer than its share of the large one.
        image = min(max((more - less) / (large - small), 0), more / large)
        return Seconds(more - large * image, image)

    def _best(self, step: Callable[..., None], batch: Sequence[Tensor], repeats: int) -> float:
        taken = self._time(step, batch)
        for _ in range(repeats - 1 if taken < LONG else 0):
            taken = min(taken, self._time(step, batch))
        return taken

    def _batch(self, size: int) -> tuple[Tensor, Tensor]:
        """Random images, ``(size, channels, height, width)``, or vectors, and labels, ``(size,)``."""
        images = torch.randn(size, *input_shape(self.cfg), device=self.device)
        return images, torch.randint(self.cfg.data.num_classes, (size,), device=self.device)

    def _time(self, step: Callable[..., None], batch: Sequence[Tensor]) -> float:
        start = self._now()
        step(*batch)
        return self._now() - start

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return clock()


def _any_loss(output: Tensor, labels: Tensor) -> Tensor:
    """Stands for any loss: which labels one takes is not known, and it takes next to no time."""
    return output.square().mean()


def device_of(cfg: DictConfig) -> torch.device:
    """Where a configuration runs."""
    return torch.device("cuda" if torch.cuda.is_available() and cfg.trainer.accelerator != "cpu" else "cpu")


def _estimator(cfg: DictConfig) -> GradientEstimator:
    return build_estimator(OmegaConf.merge(cfg, {"compile": False}))  # compiling takes longer than all else


def _optimizer(parameters: Sequence[nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=1e-6, momentum=0.9, weight_decay=5e-4)


def _materialise(module: nn.Module, device: torch.device) -> None:
    """Give a module without memory some, with numbers that ordinary activations and gradients follow from."""
    module.to_empty(device=device)
    with torch.no_grad():
        for tensor in [*module.parameters(), *module.buffers()]:
            tensor.fill_(0.01 if tensor.is_floating_point() else 0)
