"""In which order a tensor's numbers lie in memory."""

import torch
from torch import Tensor


def as_memory_format(x: Tensor, channels_last: bool = False) -> Tensor:
    """A tensor with the strides of a freshly made one of its shape.

    For a single channel, or images of a single pixel, both layouts have the same order in memory and differ in their
    strides alone. ``Tensor.contiguous`` takes either for both, but convolutions choose their kernels by the strides.

    Args:
        x: of any shape.
        channels_last: whether channels, dimension 1 of a tensor with two or more dimensions behind it, lie together.

    Returns:
        The same numbers; where these are in order already, a view of ``x``.
    """
    if channels_last and x.dim() > 3:
        return as_memory_format(x.movedim(1, -1)).movedim(-1, 1)
    return x.flatten().view(x.shape)


def with_strides_of(like: Tensor, x: Tensor) -> Tensor:
    """The numbers of ``x`` with the strides of ``like``, which has its shape: fused optimizers want gradients so."""
    return x if x.stride() == like.stride() else torch.empty_like(like).copy_(x)
