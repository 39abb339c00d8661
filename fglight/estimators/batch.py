"""A batch of labelled images, which may be spread over several processes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor


@dataclass
class Batch:
    """The images and labels of one process, and its share of the batch that all processes have together.

    Means over the whole batch are means over processes weighted by these shares, so that batches may be of unlike size.
    Without a process group, or with one process, nothing is ever sent.

    Attributes:
        images: ``(batch, channels, height, width)`` or whatever block 0 takes.
        labels: class indices ``(batch,)``, or what else the losses take.
        share: of the whole batch, a scalar; None where this process has all of it.
    """

    images: Tensor
    labels: Tensor
    share: Tensor | None

    @classmethod
    def of(cls, images: Tensor, labels: Tensor) -> "Batch":
        """Find out the share of this process, in which all processes take part."""
        if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
            return cls(images, labels, None)
        count = torch.full((), len(labels), dtype=torch.float64, device=labels.device)
        return cls(images, labels, count / _sum(count))

    def mean(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Means over the whole batch.

        Args:
            tensors: means over this process's images, of any shapes, which all processes share.

        Returns:
            A tensor for each, the same in all processes.
        """
        if self.share is None or not tensors:
            return list(tensors)
        flat = _sum(torch.cat([tensor.flatten() for tensor in tensors]) * self.share)
        return [part.view_as(x) for part, x in zip(flat.split([x.numel() for x in tensors]), tensors)]

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum of all processes' tensors of one shape, the same in all."""
        return tensor if self.share is None else _sum(tensor)

    def first(self, tensor: Tensor) -> Tensor:
        """The first process's tensor, in all processes."""
        return tensor if self.share is None else _sum(tensor if dist.get_rank() == 0 else torch.zeros_like(tensor))

    def own(self, draw: Callable[[], Tensor]) -> Tensor:
        """This process's part of what every process draws for its own samples, from the same generator state."""
        if self.share is None:
            return draw()
        return [draw() for _ in range(dist.get_world_size())][dist.get_rank()]

    def gather(self, rows: Tensor) -> Tensor:
        """The rows ``(batch, ...)`` of all processes one below the other, in the order of their ranks."""
        if self.share is None:
            return rows
        counts = [torch.zeros((), dtype=torch.int64, device=rows.device) for _ in range(dist.get_world_size())]
        dist.all_gather(counts, torch.full_like(counts[0], len(rows)))
        padded = rows.new_zeros(max(int(count) for count in counts), *rows.shape[1:])
        padded[: len(rows)] = rows
        parts = [torch.empty_like(padded) for _ in counts]
        dist.all_gather(parts, padded)
        return torch.cat([part[: int(count)] for part, count in zip(parts, counts)])


def _sum(tensor: Tensor) -> Tensor:
    """The sum over processes, by an operation that a compiled step can contain."""
    from torch.distributed._functional_collectives import all_reduce, wait_tensor  # not in all builds of torch

    return wait_tensor(all_reduce(tensor, "sum", dist.group.WORLD))
