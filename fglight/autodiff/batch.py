"""A batch of labelled images, which may be spread over several processes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from fglight.errors import BlockError
from fglight.models.blocks import Block
from fglight.models.losses import divisor


@dataclass
class Batch:
    """The images and labels of one process, of the batch that all processes have together.

    With N processes the loss of the whole batch is L(o_1, ..., o_N), of the outputs o_r of each process. Process r
    differentiates it with respect to o_r. Whatever comes of that adds up over processes: gradients of parameters, inner
    products with them, and the loss itself. Without a process group, or with one process, nothing is ever sent.

    Attributes:
        images: ``(batch, channels, height, width)`` or whatever block 0 takes.
        labels: class indices ``(batch,)``, or what else the losses take.
        several: whether other processes have parts of the batch.
        compiled: whether what is done with it is recorded: then nothing is sent whose size others have to tell.
    """

    images: Tensor
    labels: Tensor
    several: bool = False
    compiled: bool = False
    _totals: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)

    @classmethod
    def of(cls, images: Tensor, labels: Tensor, *, compiled: bool = False) -> "Batch":
        """The batch of this process, one of all those in the process group."""
        return cls(images, labels, in_several_processes(), compiled)

    def loss(self, block: Block, output: Tensor | Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """This process's part of a block's loss on the whole batch.

        The parts of all processes add up to the loss, and the part's gradient is the loss's, with respect to this
        output.

        Args:
            block: block j.
            output: h_j ``(batch, ...)``, or as many of them as there are auxiliary networks.

        Returns:
            The part, a scalar, and this process's outputs of the auxiliary network; see ``Block.loss``.

        Raises:
            BlockError: an auxiliary network has a loss of its own and does not tell what that divides by, or a compiled
                step would have to send outputs of unknown sizes.
        """
        outputs = [output] * len(block.auxiliaries) if isinstance(output, Tensor) else output
        return block.loss_of(outputs, self.labels, self._part if self.several else None)

    def _part(self, owner: object, loss: Callable[[Tensor, Tensor], Any], outputs: Tensor, labels: Tensor) -> Any:
        """What ``loss`` gives, with this process's part in the place of a loss; see ``Evaluate``.

        A mean that tells what it divides by is weighted by this process's share of that. Any other function of outputs
        and labels is evaluated on the whole batch, of which this process's outputs alone have a graph, and the first
        process has its value.
        """
        own = divisor(owner, labels)
        if own is not None:
            found = loss(outputs, labels)
            value, *rest = found if isinstance(found, tuple) else (found,)
            if id(owner) not in self._totals:  # it is of the labels alone, and so the same for all blocks
                own = torch.as_tensor(own, dtype=torch.float64, device=value.device)
                self._totals[id(owner)] = own, self.sum([own])[0]
            own, total = self._totals[id(owner)]
            # A mean over nothing is not a number.
            part = torch.where(own != 0, value, 0) * (own / total).to(value.dtype)
            return (part, *rest) if rest else part
        if owner is not loss:
            raise BlockError(
                f"on several processes {type(owner).__name__} must have a method divisor(labels), in the class that "
                "has its loss, which tells what that divides by, such as the number of samples"
            )
        rank, name = dist.get_rank(), getattr(loss, "__name__", type(loss).__name__)
        rows = self._gather(outputs.detach(), f"{name}, which has no method divisor,")
        rows[rank] = outputs
        value = loss(torch.cat(rows), self._all_labels)
        return value if rank == 0 else value - value.detach()

    @cached_property
    def _all_labels(self) -> Tensor:
        return torch.cat(self._gather(self.labels, "labels"))

    def sum(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Sums over processes of tensors of any shapes, which all processes share; the same in all."""
        if not self.several or not tensors:
            return list(tensors)
        flat = _sum(torch.cat([tensor.flatten() for tensor in tensors]))
        parts = flat.split([x.numel() for x in tensors])
        return [part.view_as(x).to(x.dtype) for part, x in zip(parts, tensors)]

    def mean(self, values: Sequence[Tensor]) -> list[Tensor]:
        """Means over the samples of all processes, the same in all.

        Args:
            values: of this process's samples, ``(batch, ...)`` each.
        """
        if not self.several:
            return [x.mean(0) for x in values]
        own = torch.full((), len(self.labels), dtype=torch.float64, device=self.labels.device)
        *sums, total = self.sum([*(x.sum(0) for x in values), own])
        return [x / total.to(x.dtype) for x in sums]

    def first(self, tensor: Tensor) -> Tensor:
        """The first process's tensor, in all processes."""
        return self.sum([tensor if not self.several or dist.get_rank() == 0 else torch.zeros_like(tensor)])[0]

    def rows(self, function: Callable[..., Tensor], *rows: Tensor | None) -> Tensor:
        """This process's rows of what a function that draws gives for the rows of all processes.

        Args:
            function: of as many arguments, whose generator has the same state in all processes; gives a row for each.
            rows: ``(rows, ...)`` each, or None; the last is none.
        """
        if not self.several:
            return function(*rows)
        parts = [None if x is None else self._gather(x, "a coefficient that is drawn for samples") for x in rows]
        whole = function(*(None if part is None else torch.cat(part) for part in parts))
        return whole.split([len(part) for part in parts[-1] or []])[dist.get_rank()]

    def gather(self, rows: Tensor) -> Tensor:
        """The rows ``(batch, ...)`` of all processes one below the other, in the order of their ranks."""
        return torch.cat(self._gather(rows, "the span of a batch")) if self.several else rows

    def _gather(self, rows: Tensor, what: str) -> list[Tensor]:
        """The rows ``(rows, ...)`` of each process.

        Args:
            rows: of this process.
            what: is made of them.

        Raises:
            BlockError: in a compiled step, and where rows of processes have unlike shapes.
        """
        if self.compiled:
            raise BlockError(
                f"compile must be false on several processes with {what} since parts of a batch may be of any size"
            )
        parts: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(parts, rows.cpu())  # of any size and type, which not all backends send
        shapes = {str(tuple(part.shape[1:])) for part in parts}
        if len(shapes) > 1:
            raise BlockError(f"{what} needs one shape of a sample on all processes, got {', '.join(sorted(shapes))}")
        return [part.to(rows.device) for part in parts]


def in_several_processes() -> bool:
    """Whether this is one of several processes of a process group."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def _sum(tensor: Tensor) -> Tensor:
    """The sum over processes, by an operation that a compiled step can contain."""
    from torch.distributed._functional_collectives import all_reduce, wait_tensor  # not in all builds of torch

    group: Any = dist.group.WORLD
    return wait_tensor(all_reduce(tensor, "sum", group))
