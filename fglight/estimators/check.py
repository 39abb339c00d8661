"""What an estimator will do with each layer of a network, told before any training."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from fglight.autodiff.batch import Batch, in_several_processes
from fglight.autodiff.buffers import rehearse
from fglight.autodiff.diagnosis import undifferentiable_layers
from fglight.autodiff.layers.calls import record_calls
from fglight.autodiff.local_loss import Auxiliaries
from fglight.autodiff.passes import NetworkPass
from fglight.errors import BlockError
from fglight.estimators.engines.base import Engine
from fglight.estimators.guesses.base import Guess
from fglight.estimators.spaces.base import Perturbation
from fglight.estimators.spaces.everything import Everything
from fglight.models.blocks import Block, trainable

LANES = 16
"""How many single-precision numbers the vector registers of CPUs hold at most."""


@dataclass(frozen=True)
class LayerCheck:
    """What becomes of one layer.

    Attributes:
        block: its block j; None for what concerns the whole network.
        layer: its name in the block's body, empty for the body itself; ``aux``: the auxiliary network, or the head.
        kind: its class.
        path: ``fast``; ``slow``, the right way at a price; or ``refused``: the first step would end with an error.
        why: why it is slow and what that costs, or why it is refused and what is accepted; empty where it is fast.
    """

    block: int | None
    layer: str
    kind: str
    path: Literal["fast", "slow", "refused"]
    why: str = ""


def differentiation(space: Perturbation, engine: Engine) -> Callable[..., None]:
    """What does to a body what a step does, for ``undifferentiable_layers``."""
    return partial(engine.differentiate, parameters=space.in_parameters)


def check_layers(
    blocks: Sequence[Block], images: Tensor, guess: Guess, space: Perturbation, engine: Engine, *, auxiliaries: bool
) -> list[LayerCheck]:
    """What becomes of every layer with trained parameters; see ``GradientEstimator.check``."""
    found, refused = [], defaultdict(list)
    for index, part, name, kind, why in undifferentiable_layers(blocks, images, differentiation(space, engine)):
        trained = space.trains if part is blocks[index].body else auxiliaries
        if trained or index == len(blocks) - 1:
            layer = name if part is blocks[index].body else "aux"
            refused[index].append(LayerCheck(index, layer, kind, "refused", f"{why}: {engine.remedy}"))
    nothing = Auxiliaries(evaluated=False, differentiated=False, trained=False)
    for index, (block, x, _, buffers) in enumerate(rehearse(blocks, images)):
        if not any(check.layer != "aux" for check in refused[index]):
            batch = Batch.of(images, torch.zeros(len(images), dtype=torch.long, device=images.device))
            network = NetworkPass(blocks, batch, buffers, nothing, record_calls, trains_blocks=space.trains)
            block_pass = network.enter(index, x.detach())
            slow: dict[str, str] = {}
            exact = block is blocks[-1] or not guess.projects
            with torch.enable_grad(), buffers.again(block.body):
                block_pass.run()
                for name, parameter in zip(block_pass.names, block_pass.parameters):
                    layer = name.rpartition(".")[0]
                    why = "" if exact else space.slow(block_pass, parameter, guess)
                    slow[layer] = slow.get(layer) or why
            for layer, why in slow.items():
                kind = type(dict(block.body.named_modules())[layer]).__name__
                found.append(LayerCheck(index, layer, kind, "slow" if why else "fast", why))
            block_pass.release()
        found += refused[index]
    return found


def check_inputs(blocks: Sequence[Block], images: object, labels: object) -> None:
    """Refuse a batch, or a mode, in which there are no gradients.

    Raises:
        BlockError: naming what was given.
    """
    for name, given in (("images", images), ("labels", labels)):
        if not isinstance(given, Tensor):
            raise BlockError(f"{name} must be a tensor, got a {type(given).__name__}: take it out of the batch first")
    inference = any(tensor.is_inference() for block in blocks for tensor in block.parameters())
    if torch.is_inference_mode_enabled() or inference:
        raise BlockError(
            "an estimate needs gradients, which torch.inference_mode() rules out: make the network, and take the step, "
            "outside of that mode"
        )


def check_parameters(blocks: Sequence[Block], *, projects: bool) -> None:
    """Refuse parameters that have no shape yet, that more than one part has, or that are complex and projected.

    Args:
        blocks: the network.
        projects: whether targets are projected at all.

    Raises:
        BlockError: naming the parameter.
    """
    owners: dict[Tensor, int] = {}
    for index, block in enumerate(blocks):
        last = block is blocks[-1]
        for part, prefix in [(block, "")] if last else [(block.body, "body"), (block.aux, "aux")]:
            for name, tensor in (*part.named_parameters(prefix), *part.named_buffers(prefix)):
                if nn.parameter.is_lazy(tensor):
                    raise BlockError(
                        f"{name} of block {index} must have a shape, and gets one when its layer runs: run the network "
                        "once before the first step, and before its optimizer is made"
                    )
                if not tensor.requires_grad or not isinstance(tensor, nn.Parameter):
                    continue
                if tensor in owners:
                    raise BlockError(
                        f"{name} of block {index} is also a parameter of block {owners[tensor]}: use bodies and "
                        "auxiliary networks with parameters of their own"
                    )
                if projects and part is block.body and tensor.is_complex():
                    raise BlockError(
                        f"{name} of block {index} must be real to be projected, and is {tensor.dtype}: make it a real "
                        "parameter (..., 2), and take torch.view_as_complex of it in forward"
                    )
                owners[tensor] = index


def check_processes(blocks: Sequence[Block], space: Perturbation, *, parts: int) -> None:
    """Refuse what would be wrong without a word where several processes have parts of a batch.

    Raises:
        BlockError: naming the layer.
    """
    if not in_several_processes():
        return
    if parts > 1:
        raise BlockError(f"micro_batches must be 1 on several processes, which have parts of a batch each, got {parts}")
    from torch.distributed.fsdp import FullyShardedDataParallel  # half a second that one process need not wait
    from torch.distributed.tensor import DTensor
    from torch.nn.parallel import DistributedDataParallel

    for index, block in enumerate(blocks):
        for name, module in block.named_modules():
            if isinstance(module, (DistributedDataParallel, FullyShardedDataParallel)):
                raise BlockError(
                    f"{name} of block {index} must be a module without {type(module).__name__} around it: "
                    "estimates are of all processes' batches already"
                )
        for name, parameter in block.named_parameters():
            if isinstance(parameter, DTensor):
                raise BlockError(f"{name} of block {index} must be whole in every process, and is a DTensor's shard")
        statistics = block is not blocks[-1] and space.in_parameters and space.by_sample
        for name, module in block.body.named_modules(prefix="body") if statistics else ():
            if isinstance(module, nn.SyncBatchNorm) and module.training:
                raise BlockError(
                    f"{name} of block {index} must be a batch norm of each process's own samples with "
                    "perturb=weight_per_sample, and is a SyncBatchNorm"
                )


def check_counts(blocks: Sequence[Block], guess: Guess, space: Perturbation) -> None:
    """Refuse blocks with unlike numbers of directions where all move at once.

    Raises:
        BlockError: naming the numbers.
    """
    counts = sorted({guess.count(block) for block in blocks[:-1] if trainable(block.body)})
    if space.units.joins_blocks and len(counts) > 1:
        raise BlockError(
            f"perturb.granularity={space.granularity} needs as many directions of each block, and there are "
            f"{' or '.join(map(str, counts))}: use block or tensor, or as many auxiliary networks everywhere"
        )


def check_kernels(blocks: Sequence[Block]) -> None:
    """Refuse convolutions whose weight gradient is wrong on CPUs with channels last (oneDNN issue 6035).

    Raises:
        BlockError: naming the layer.
    """
    for index, block in enumerate(blocks):
        for name, module in block.named_modules():
            strided = isinstance(module, nn.Conv2d) and module.kernel_size == (1, 1) and module.stride != (1, 1)
            if strided and module.in_channels < LANES:
                raise BlockError(
                    f"channels_last=true is not possible with {name} of block {index} on CPUs, whose gradient of a "
                    f"strided 1x1 convolution of fewer than {LANES} channels is wrong: use "
                    "channels_last=false, or a convolution without stride of every second pixel"
                )


def check_exact(setting: str, guess: Guess, space: Perturbation) -> None:
    """Refuse a setting that saves memory where the estimate is not the target.

    Raises:
        ValueError: in one line.
    """
    if not isinstance(space, Everything):
        raise ValueError(
            f"{setting} is not possible with {type(guess).__name__}, whose estimate is not the target: "
            "leave it out, or use guess=exact"
        )
