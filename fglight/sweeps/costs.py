"""How long steps take: what they compute is counted on a narrow network, and backpropagation timed on each network."""

import json
import math
import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from fglight.build import build_estimator, build_model, examples
from fglight.diagnostics.profile import FlopCounter
from fglight.runs.settings import run_settings

T = TypeVar("T")

NARROW = 1 / 16
"""Width, and part of the batch, that work is counted with: what samples compute with each other grows with both."""

NUMBER, OPERATION = 400, 1e-5
"""FLOPs that take as long as writing a number, and seconds that an operation takes whatever its size."""

FEW, GROWTH = 2, 4
"""Images of the smallest batch that is timed, and how many times larger the next ones are."""

ENOUGH = 0.1
"""Seconds of a batch that is large enough to go by."""

WIDEST = 1.0
"""Width up to which a network is timed; a wider one takes as much longer as the square of its width is larger."""

LARGE = 28
"""Side of images in the copy: larger ones, colours, classes and the stem hardly change how much more an estimator
computes than backpropagation."""

clock = time.perf_counter
"""Tells the seconds."""


@dataclass(frozen=True)
class Kind:
    """What decides on the time of a step; learning rates do not, and the number of classes hardly does.

    Attributes:
        cfg: a configuration of this kind.
        network: the settings of the network that is timed, and the images' shape.
        narrow: those of its narrow copy.
        estimator: the settings of all else that computes.
        batch: how many images a step has.
        width: of the network; the narrow one's where that is the network itself.
    """

    cfg: DictConfig = field(compare=False, repr=False)
    network: str
    narrow: str
    estimator: str
    batch: int
    width: float

    @classmethod
    def of(cls, cfg: DictConfig) -> "Kind":
        """The kind of a configuration."""
        settings = run_settings(cfg)
        target, guess = settings["target"], settings["guess"]
        parts = ["target", "guess", "engine", "probe", "checkpointing", "micro_batches", "channels_last"]
        parts += ["perturb"] * guess["projects"]
        parts += ["aux"] * (target["uses_auxiliaries"] or guess["uses_auxiliaries"] or settings["probe"])
        estimator = {part: settings[part] for part in parts}
        model, shape = settings["model"], [settings["data"][name] for name in ("in_channels", "image_size")]
        network = narrow = _text([model, *shape])
        width = NARROW
        if _has_width(cfg):  # backpropagation takes the same into however many blocks it is cut
            width = cfg.model.width
            network = _text([min(width, WIDEST), model["stem"], *shape])
            narrow = _text([model["name"], _narrow(cfg)])
        return cls(cfg, network, narrow, _text(estimator), cfg.data.batch_size, width)


@dataclass(frozen=True)
class Times:
    """What a batch takes, in seconds, in training and in a test."""

    training: float
    testing: float


@dataclass(frozen=True)
class Pace:
    """What backpropagation takes on a network: seconds of a step, whatever its batch, and of each image."""

    step: float
    image: float


class Work(FlopCounter):
    """Adds up what a step computes.

    Attributes:
        numbers: that operations write.
        operations: how many there are.
    """

    def __init__(self) -> None:
        super().__init__()
        self.numbers = self.operations = 0

    def see(self, func: Any, out: Any) -> None:
        """See ``FlopCounter``."""
        if not func.is_view:
            self.operations += 1
            self.numbers += sum(x.numel() for x in (out if isinstance(out, tuple) else (out,)) if isinstance(x, Tensor))


class Steps:
    """Tells how long steps take: networks are timed, and the work of estimators counted, when first asked for."""

    def __init__(self) -> None:
        self._made: dict[Hashable, Any] = {}

    def _once(self, key: Hashable, make: Callable[[], T]) -> T:
        """What is made for a key when it is first asked for."""
        if key not in self._made:
            self._made[key] = make()
        return self._made[key]

    def times(self, kind: Kind) -> Times:
        """What a batch takes: as much more than backpropagation as it computes more; a test a third of that."""
        cfg, width = kind.cfg, kind.width
        timeable = OmegaConf.merge(cfg, {"model": {"width": WIDEST}}) if width > WIDEST else cfg
        pace = self._once(kind.network, lambda: timed(timeable))
        work = self._once((kind.narrow, kind.estimator), lambda: self.counted(cfg, estimated=True))
        plain = self._once((kind.narrow, ""), lambda: self.counted(cfg, estimated=False))
        backpropagation = (pace.step + kind.batch * pace.image) * max(1, width / WIDEST) ** 2
        size, usual = (width / NARROW * counted.total + NUMBER * counted.numbers for counted in (work, plain))
        training = size / usual * max(0, backpropagation - OPERATION * plain.operations) + OPERATION * work.operations
        return Times(training, backpropagation / 3)

    def counted(self, cfg: DictConfig, *, estimated: bool) -> Work:
        """What a step computes on a narrow copy of a network: a configuration's estimator's, or backpropagation's."""
        small = OmegaConf.merge(cfg, {"compile": False}, _narrow(cfg) if _has_width(cfg) else {})
        model = self._once(str([small.model, small.aux, small.data]), lambda: build_model(small))
        model.zero_grad()
        for block in model.blocks:
            block.use_loss(_any_loss)
        batch = _batch(small, max(FEW, round(NARROW * cfg.data.batch_size)) if _has_width(cfg) else FEW)
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # several would mostly wait for each other
        try:
            with Work() as work:
                if estimated:
                    build_estimator(small).estimate(model.blocks, *batch)
                else:
                    _any_loss(model(batch[0]), batch[1]).backward()
        finally:
            torch.set_num_threads(threads)
        return work


def _has_width(cfg: DictConfig) -> bool:
    """Whether the network is the paper's; what the settings of others mean is their own affair."""
    return {"width", "stem"} <= set(cfg.model)


def _narrow(cfg: DictConfig) -> dict[str, dict[str, Any]]:
    """What makes a configuration that of the narrow copy."""
    images = {"image_size": min(cfg.data.image_size, LARGE), "in_channels": 3, "num_classes": 10}
    hidden = cfg.aux.get("hidden")
    narrow_aux = {"hidden": math.ceil(hidden * NARROW / cfg.model.width)} if hidden else {}
    return {"model": {"width": NARROW, "stem": "cifar"}, "aux": narrow_aux, "data": images}


def timed(cfg: DictConfig) -> Pace:
    """Time steps of backpropagation on a configuration's network, with growing batches of random images."""
    device = device_of(cfg)
    with torch.device("meta"):  # to initialise a large network properly takes longer than its steps
        blocks = build_model(cfg).blocks
    network = nn.Sequential(*(block.body for block in blocks), blocks[-1].aux).to_empty(device=device)
    with torch.no_grad():  # ordinary activations and gradients follow from these
        for tensor in [*network.parameters(), *network.buffers()]:
            tensor.fill_(0.01 if tensor.is_floating_point() else 0)
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-6, momentum=0.9, weight_decay=5e-4)

    def seconds(size: int) -> float:
        images, labels = _batch(cfg, size, device)
        taken: list[float] = []
        while len(taken) < 4 and sum(taken) < 2.5 * ENOUGH:
            start = _now(device)
            optimizer.zero_grad()
            _any_loss(network(images), labels).backward()
            optimizer.step()
            taken.append(_now(device) - start)
        return min(taken)  # the others were disturbed

    seconds(FEW)  # what is not there yet, such as memory for gradients, takes time
    return pace_of(seconds, cfg.data.batch_size)


def pace_of(seconds: Callable[[int], float], most: int) -> Pace:
    """What a step and an image take, from the two largest of growing batches.

    Args:
        seconds: of a step of so many images.
        most: images of the largest batch.
    """
    small = large = min(FEW, most)
    less = more = seconds(small)
    while large < most and (more < ENOUGH or large == small):
        small, less, large = large, more, min(GROWTH * large, most)
        more = seconds(large)
    if large == small:
        return Pace(0, more / large)
    # Whatever else the machine did during the small batch, no image takes longer than its share of the large one.
    image = min(max((more - less) / (large - small), 0), more / large)
    return Pace(more - large * image, image)


def device_of(cfg: DictConfig) -> torch.device:
    """Where a configuration runs."""
    return torch.device("cuda" if torch.cuda.is_available() and cfg.trainer.accelerator != "cpu" else "cpu")


def _batch(cfg: DictConfig, size: int, device: torch.device | None = None) -> tuple[Tensor, Tensor]:
    """Random samples, ``(size, ...)``, and labels, ``(size,)``."""
    return examples(cfg, size).to(device), torch.randint(cfg.data.num_classes, (size,), device=device)


def _any_loss(output: Tensor, labels: Tensor) -> Tensor:
    """Stands for any loss: which labels one takes is not known, and it takes next to no time."""
    return output.square().mean()


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return clock()


def _text(settings: Any) -> str:
    return json.dumps(settings, sort_keys=True)
