"""What is measured: a backpropagation step and one step of each estimator, on the same network and batch."""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from fglight import build_estimator, build_model, load_config
from fglight.models import BlockNetwork

Step = Callable[[], object]
"""One step: leaves gradients in ``.grad`` and changes no parameter."""

BACKPROPAGATION, INFERENCE = "backpropagation", "inference"


@dataclass(frozen=True)
class Case:
    """An estimator, and what its step should cost at most, as multiples of a backpropagation step.

    Attributes:
        name: as it stands in the tables.
        overrides: Hydra overrides that choose it.
        cosine: whether the step computes the cosine similarity too.
        time: goals by number of blocks.
        memory: the goal for the peak memory that a step adds over an idle model.
        gpu_time: the goal on a GPU.
    """

    name: str
    overrides: tuple[str, ...]
    cosine: bool = False
    time: dict[int, float] = field(default_factory=dict)
    memory: float | None = None
    gpu_time: float | None = None


LOCAL, GAUSSIAN, FORWARD = "guess=local", "guess=gaussian", "engine=forward"
NETWORK, BLOCK = "perturb.granularity=network", "perturb.granularity=block"

FINITE, REDRAW, CHECKPOINTED = "engine=finite", "engine.redraw=true", "checkpointing=true"

CASES = [
    Case("backpropagation, checkpointed", ("guess=exact", CHECKPOINTED)),
    Case("local learning", ("guess=exact", "target=local"), time={8: 0.95, 16: 0.95}),
    Case("local learning, checkpointed", ("guess=exact", "target=local", CHECKPOINTED)),
    Case("local guess, activity", (LOCAL, "perturb=activity"), time={8: 1.3, 16: 1.3}, gpu_time=1.3),
    Case("local guess, activity, cosine", (LOCAL, "perturb=activity"), cosine=True),
    Case("local guess, weight", (LOCAL, "perturb=weight"), time={8: 1.6, 16: 1.55}, gpu_time=1.7),
    Case("local guess, weight, cosine", (LOCAL, "perturb=weight"), cosine=True),
    Case("NTK guess, activity", ("guess=ntk", "perturb=activity"), gpu_time=1.3),
    Case("gaussian guess, activity", (GAUSSIAN, "perturb=activity"), time={8: 1.2, 16: 1.2}, gpu_time=1.3),
    Case("gaussian guess, weight", (GAUSSIAN, "perturb=weight"), time={8: 1.1, 16: 1.1}, gpu_time=1.7),
    Case("local guess, activity span", (LOCAL, "perturb=activity_span"), time={8: 1.4, 16: 1.4}),
    Case(
        "local guess, weight per sample",
        (LOCAL, "perturb=weight_per_sample"),
        time={8: 2.0, 16: 2.0},
        memory=1.3,
        gpu_time=2.5,
    ),
    Case(
        "gaussian guess, weight, network, forward mode",
        (GAUSSIAN, FORWARD, NETWORK),
        time={8: 1.05, 16: 1.05},
        memory=0.55,
    ),
    Case("gaussian guess, weight, block, forward mode", (GAUSSIAN, FORWARD, BLOCK)),
    Case("local guess, weight, network, forward mode", (LOCAL, FORWARD, NETWORK)),
    Case("gaussian guess, weight, network, finite differences", (GAUSSIAN, FINITE, NETWORK)),
    Case("gaussian guess, weight, network, finite differences, redrawn", (GAUSSIAN, FINITE, NETWORK, REDRAW)),
    Case("gaussian guess, weight, block, finite differences", (GAUSSIAN, FINITE, BLOCK)),
    Case("local guess, weight, network, finite differences", (LOCAL, FINITE, NETWORK)),
]


def build_network(blocks: int, width: float, device: torch.device) -> BlockNetwork:
    """ResNet-18 for 3x32x32 images and ten classes, with CNN auxiliaries.

    Args:
        blocks: 8 or 16.
        width: scales all channel counts.
        device: where it lies.
    """
    torch.manual_seed(0)
    return build_model(load_config([f"model=resnet18_{blocks}", f"model.width={width}", "data=cifar10"])).to(device)


def random_batch(batch: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Images ``(batch, 3, 32, 32)`` and labels ``(batch,)``."""
    return torch.randn(batch, 3, 32, 32, device=device), torch.randint(10, (batch,), device=device)


def backpropagation(model: BlockNetwork, images: Tensor, labels: Tensor) -> Step:
    """A backpropagation step, in which auxiliary networks take no part."""

    def step() -> None:
        model.zero_grad(set_to_none=True)
        F.cross_entropy(model(images), labels).backward()

    return step


def inference(model: BlockNetwork, images: Tensor, labels: Tensor) -> Step:
    """The loss, and no gradient: what an estimate from forward passes alone is to be compared with."""

    @torch.no_grad()
    def step() -> None:
        F.cross_entropy(model(images), labels)

    return step


def estimation(case: Case, model: BlockNetwork, images: Tensor, labels: Tensor) -> Step:
    """A step of a case's estimator, in the memory layout of the images."""
    estimator = build_estimator(load_config(list(case.overrides)))
    estimator.channels_last = not images.is_contiguous()
    return lambda: estimator.estimate(model, images, labels, cosine=case.cosine)
