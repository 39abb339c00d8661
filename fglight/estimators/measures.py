"""How good an estimate is: beside the exact gradient of the network's loss, and by what a step along it gains."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fglight.autodiff.batch import Batch
from fglight.autodiff.buffers import Buffers
from fglight.autodiff.parameters import replaced
from fglight.autodiff.rng import generators_kept
from fglight.memory_format import as_memory_format
from fglight.models.blocks import Block, trainable


@dataclass(frozen=True)
class Measures:
    """What is measured of the estimates of blocks 0..J-2, ``(J-1,)`` each.

    Attributes:
        target: norms of the exact gradient of the network's loss L.
        estimate: norms of the estimate; 0 for a block that is not trained.
        alignment: cosine similarities of the two; NaN where one of them is 0.
        decrease: by how much L falls on the batch where the block alone takes a step of plain gradient descent. Where
            blocks draw random numbers, such as dropout's, these differ before and after.
    """

    target: Tensor
    estimate: Tensor
    alignment: Tensor
    decrease: Tensor


def measure(blocks: Sequence[Block], images: Tensor, labels: Tensor, lr: float, *, channels_last: bool) -> Measures:
    """Measure the estimates in ``.grad``. They stay there, and no parameter, buffer or generator moves.

    It takes a backpropagation step, and for each block a forward pass from there on.

    Args:
        blocks: the network.
        images: the batch of the estimates, as for ``GradientEstimator.estimate``.
        labels: as the loss takes them.
        lr: learning rate of the steps.
        channels_last: as for ``GradientEstimator``.
    """
    buffers, batch = Buffers(blocks), Batch.of(images, labels)

    def run(start: int, hidden: Tensor, moved: Mapping[str, Tensor]) -> list[Tensor]:
        """The outputs of the blocks from one on, whose parameters have moved, and the loss."""
        outputs: list[Tensor] = []
        for block in blocks[start:]:
            with buffers.again(block.body), replaced(block.body, {} if outputs else moved):
                hidden = block.body(hidden)
            outputs.append(hidden)
        with buffers.again(blocks[-1].aux):
            loss, _ = batch.loss(blocks[-1], hidden)
        return [*outputs, loss]

    parameters = [trainable(block.body) for block in blocks[:-1]]
    estimates = [[torch.zeros_like(p) if p.grad is None else p.grad for p in group] for group in parameters]
    with generators_kept(images.device):
        with torch.enable_grad():
            *outputs, loss = run(0, as_memory_format(images, channels_last), {})
            flat = [p for group in parameters for p in group]
            exact = torch.autograd.grad(loss, flat, allow_unused=True, materialize_grads=True) if flat else ()
        exact_of = dict(zip(flat, batch.sum(exact)))
        targets = [[exact_of[p] for p in group] for group in parameters]
        inputs = [as_memory_format(images, channels_last), *(output.detach() for output in outputs)]
        losses = []
        with torch.no_grad():
            for index, (block, gradients) in enumerate(zip(blocks[:-1], estimates)):
                names = [name for name, p in block.body.named_parameters() if p.requires_grad]
                moved = {name: p - lr * g for name, p, g in zip(names, parameters[index], gradients)}
                losses.append(run(index, inputs[index], moved)[-1])
    target, estimate = (
        torch.stack([_product(loss, ours, ours) for ours in groups]).sqrt() for groups in (targets, estimates)
    )
    loss, *losses = batch.sum([loss.detach(), *losses])
    products = torch.stack([_product(loss, *groups) for groups in zip(targets, estimates)])
    return Measures(target, estimate, products / (target * estimate), loss - torch.stack(losses))


def _product(like: Tensor, first: Sequence[Tensor], second: Sequence[Tensor]) -> Tensor:
    """The inner product of two lists of tensors, which may be empty, a scalar as ``like`` is."""
    return torch.stack([like.new_zeros(()), *((a * b.conj()).sum().real for a, b in zip(first, second))]).sum()
