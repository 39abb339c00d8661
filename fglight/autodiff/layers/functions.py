"""Functions of torch's that take a weight and a bias, and the layers of torch's that would do the same.

A module of anyone's may call them with its own parameters, as in ``F.conv2d(F.pad(x, sides), self.weight)`` or a batch
norm with an activation at its end. What is known of the layer is known of such a use.
"""

from collections.abc import Callable, Mapping, Sequence
from copy import copy
from functools import lru_cache, partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Given = tuple[Tensor, nn.Module]
"""What a function took in, and a layer that gives out the same of it."""


def as_layer(function: Callable, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Given | None:
    """Of a call of one of ``FUNCTIONS``; None where no layer has such arguments."""
    try:
        return FUNCTIONS[function](*args, **kwargs)
    except (TypeError, ValueError, IndexError):
        return None


@lru_cache(maxsize=1024)
def _template(kind: type[nn.Module], *arguments: Any, **settings: Any) -> nn.Module:
    with torch.device("meta"):  # no random numbers are drawn there
        return kind(*arguments, **settings)


def _layer(
    parameters: tuple[Tensor | None, Tensor | None], kind: type[nn.Module], *arguments: Any, **settings: Any
) -> Any:
    """A layer with these tensors for its weight and bias."""
    layer = copy(_template(kind, *arguments, **settings))  # type: ignore[arg-type]  # classes have a hash
    layer.__dict__.update(_parameters=dict(zip(("weight", "bias"), parameters)), _buffers=dict(layer._buffers))
    return layer


def _linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Given:
    return input, _layer((weight, bias), nn.Linear, weight.shape[1], weight.shape[0], bias=False)


def _convolution(
    kind: type[nn.Module],
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Given:
    outputs, inputs, *kernel = weight.shape
    settings = {"stride": stride, "padding": padding, "dilation": dilation}
    for name, value in settings.items():  # (2,) stands for (2, 2)
        if isinstance(value, list | tuple):
            settings[name] = tuple(value) * (len(kernel) if len(value) == 1 else 1)
    return input, _layer(
        (weight, bias), kind, inputs * groups, outputs, (*kernel,), groups=groups, bias=False, **settings
    )


def _embedding(
    input: Tensor,
    weight: Tensor,
    padding_idx: int | None = None,
    max_norm: float | None = None,
    norm_type: float = 2.0,
    scale_grad_by_freq: bool = False,
    sparse: bool = False,
) -> Given:
    options = {"max_norm": max_norm, "scale_grad_by_freq": scale_grad_by_freq, "sparse": sparse}
    return input, _layer((weight, None), nn.Embedding, *weight.shape, padding_idx=padding_idx, **options)


def _layer_norm(
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Given:
    return input, _layer((weight, bias), nn.LayerNorm, (*normalized_shape,), eps, elementwise_affine=False)


def _rms_norm(
    input: Tensor, normalized_shape: Sequence[int], weight: Tensor | None = None, eps: float | None = None
) -> Given:
    return input, _layer((weight, None), nn.RMSNorm, (*normalized_shape,), eps, elementwise_affine=False)


def _group_norm(
    input: Tensor, num_groups: int, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5
) -> Given:
    return input, _layer((weight, bias), nn.GroupNorm, num_groups, input.shape[1], eps, affine=False)


def _batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Given:
    kind = [nn.BatchNorm1d, nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d][input.dim() - 2]
    layer = _layer((weight, bias), kind, input.shape[1], eps, affine=False, track_running_stats=False)
    layer.training = training
    if not training:  # else it takes the batch's own statistics, and these are not to move again
        layer.running_mean, layer.running_var = running_mean, running_var
    return input, layer


FUNCTIONS: dict[Callable, Callable[..., Given]] = {
    F.linear: _linear,
    F.conv1d: partial(_convolution, nn.Conv1d),
    F.conv2d: partial(_convolution, nn.Conv2d),
    F.conv3d: partial(_convolution, nn.Conv3d),
    F.embedding: _embedding,
    F.layer_norm: _layer_norm,
    F.rms_norm: _rms_norm,
    F.group_norm: _group_norm,
    F.batch_norm: _batch_norm,
}
