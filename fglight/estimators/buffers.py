"""What a network keeps from step to step in its buffers: running statistics, power iterations, counters."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

STATISTICS = (
    *(nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm),
    *(nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d),
)
"""Layers whose buffers move in training, and do not matter there for what they give out."""


class Buffers:
    """The buffers of a network at the start of a step.

    A step moves them once, where each module runs for the first time. Whatever runs a module once more, to push
    tangents through it or to recompute activations that were not kept, does so with ``again``.

    Args:
        modules: which have not yet run in this step.
    """

    def __init__(self, modules: Iterable[nn.Module]) -> None:
        found = [
            (module, name, buffer)
            for network in modules
            for module in network.modules()
            for name, buffer in module._buffers.items()
            if buffer is not None
        ]
        copies = _copies([buffer for _, _, buffer in found])
        self.found = {
            (module, name): (buffer, buffer._version, copy) for (module, name, buffer), copy in zip(found, copies)
        }

    @contextmanager
    def again(self, network: nn.Module) -> Iterator[bool]:
        """Let a module run again from the buffers that it ran from before, and leave them where they are now.

        Args:
            network: the module, which has run in this step.

        Returns:
            A context; its value is whether nothing moves but the statistics of normalisation layers.
        """
        only_statistics = True
        now = []
        for module in network.modules():
            for name, current in module._buffers.items():
                if (module, name) not in self.found:
                    continue
                buffer, version, copy = self.found[module, name]
                now.append((module, name, current))
                # Kernels move statistics without a new version of the tensor.
                if type(module) not in STATISTICS and (current is not buffer or buffer._version != version):
                    only_statistics = False
                    copy = copy.clone()
                module._buffers[name] = copy
        try:
            yield only_statistics
        finally:
            for module, name, current in now:
                module._buffers[name] = current


def _copies(tensors: list[Tensor]) -> list[Tensor]:
    """Copies of many small tensors, in one operation for each type and device."""
    copies: list[Tensor] = [torch.empty(0)] * len(tensors)
    kinds: dict[tuple[torch.dtype, torch.device], list[int]] = {}
    for i, tensor in enumerate(tensors):
        kinds.setdefault((tensor.dtype, tensor.device), []).append(i)
    for places in kinds.values():
        flat = torch.cat([tensors[i].detach().flatten() for i in places])
        for i, part in zip(places, flat.split([tensors[i].numel() for i in places])):
            copies[i] = part.view(tensors[i].shape)
    return copies
