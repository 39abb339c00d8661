"""What a network's modules run from in a step: their buffers, and the state of the generators that they draw from."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from fglight.autodiff.layers.normalization import BATCH_NORMS, INSTANCE_NORMS
from fglight.autodiff.rng import Generators, generators_at, generators_kept
from fglight.errors import BlockError
from fglight.models.blocks import Block

STATISTICS = (*BATCH_NORMS, *INSTANCE_NORMS)
"""Layers whose buffers move in training, and do not matter there for what they give out."""


class Buffers:
    """The buffers of a network at the start of a step.

    A step moves them once, where each module runs for the first time. Whatever runs a module once more, to push
    tangents through it or to recompute activations that were not kept, does so with ``again``, which also has it draw
    the random numbers that it drew with ``first``.

    Args:
        modules: which have not yet run in this step.
        draws: whether random numbers are to be the same in all runs of a module; to look costs a little.
    """

    def __init__(self, modules: Iterable[nn.Module], *, draws: bool = False) -> None:
        self.draws = draws
        found = [
            (module, name, buffer)
            for network in modules
            for module in network.modules()
            for name, buffer in module._buffers.items()
            if buffer is not None and not isinstance(module, Block)  # what a guess keeps no run moves
        ]
        copies = _copies([buffer for _, _, buffer in found])
        self.found = {
            (module, name): (buffer, buffer._version, copy) for (module, name, buffer), copy in zip(found, copies)
        }
        self.places: dict[nn.Module, list[tuple[nn.Module, str]]] = {}  # of a module that has run again
        self.drawn: dict[nn.Module, Generators] = {}

    @contextmanager
    def first(self, network: nn.Module, device: torch.device) -> Iterator[None]:
        """Let a module run, and note whether it draws random numbers; where it has run with ``first``, the same ones.

        Args:
            network: the module.
            device: where it is.
        """
        if network in self.drawn:
            with generators_at(self.drawn[network]):
                yield
            return
        before = Generators(device) if self.draws else None
        yield
        if before is not None and before.have_moved():
            self.drawn[network] = before

    @contextmanager
    def again(self, network: nn.Module) -> Iterator[bool]:
        """Let a module run again from the buffers that it ran from before, and leave them where they are now.

        Args:
            network: the module, which has run in this step.

        Returns:
            A context; its value is whether nothing moves but the statistics of normalisation layers.
        """
        if network not in self.places:
            within = set(network.modules())
            self.places[network] = [place for place in self.found if place[0] in within]
        held = [(module, name, module._buffers[name]) for module, name in self.places[network]]
        # Kernels move statistics without a new version of the tensor.
        only_statistics = all(
            type(module) in STATISTICS or (current is buffer and buffer._version == version)
            for module, name, current in held
            for buffer, version, _ in [self.found[module, name]]
        )
        for (module, name, _), copy in zip(held, _copies([self.found[module, name][2] for module, name, _ in held])):
            module._buffers[name] = copy
        try:
            with generators_at(self.drawn[network]) if network in self.drawn else nullcontext():
                yield only_statistics
        finally:
            for module, name, current in held:
                module._buffers[name] = current


def one_tensor(output: Any, body: nn.Module) -> Tensor:
    """What a body gave out.

    Raises:
        BlockError: it is no tensor.
    """
    if not isinstance(output, Tensor):
        raise BlockError(
            f"the body of a block must give one tensor, and a {type(body).__name__} gives a {type(output).__name__}: "
            "wrap it in a module that hands on the tensor that the next block takes"
        )
    return output


def rehearse(blocks: Sequence[Block], images: Tensor) -> Iterator[tuple[Block, Tensor, Tensor, Buffers]]:
    """Run the bodies of a network without anything moving: no buffer, and no generator.

    Args:
        blocks: blocks 0..J-1.
        images: what block 0 takes.

    Yields:
        Each block, what it takes in and its output h_j, without graph, and the buffers, with which to run it again.
    """
    buffers, hidden = Buffers(blocks), images
    with generators_kept(images.device):
        for block in blocks:
            x = hidden
            with torch.enable_grad(), buffers.again(block.body):  # a body may take gradients of its own
                hidden = one_tensor(block.body(x.clone()), block.body).detach()
            yield block, x, hidden, buffers


@torch.no_grad()
def dry_run(blocks: Sequence[Block], images: Tensor) -> list[Tensor]:
    """The outputs h_0..h_{J-1} of all blocks, and that of the head; nothing moves.

    Args:
        blocks: blocks 0..J-1.
        images: what block 0 takes.
    """
    outputs = []
    for block, _, output, buffers in rehearse(blocks, images):
        outputs.append(output)
        if block is blocks[-1]:
            with torch.enable_grad(), buffers.again(block.aux):
                outputs.append(block.aux(output).detach())
    return outputs


def _copies(tensors: list[Tensor]) -> list[Tensor]:
    """Copies of many small tensors, in few operations."""
    copies = [torch.empty_like(tensor) for tensor in tensors]
    if copies:
        with torch.no_grad():
            torch._foreach_copy_(copies, tensors)
    return copies
