"""Normalisation layers: a scale and a shift of what is normalised."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from fglight.autodiff import linalg
from fglight.autodiff.layers.kinds import LayerKind

BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


class Normalization(LayerKind):
    """What all of them have in common."""

    @abstractmethod
    def normalized(self, layer: Any, x: Tensor) -> Tensor:
        """The output before scale and shift."""

    def gradients(self, call: Any, name: str, cotangents: Sequence[Tensor]) -> list[Tensor]:
        """See ``LayerKind``."""
        shape = getattr(call.layer, name).shape
        if not self.on_channels:
            normalized = self.normalized(call.layer, call.input) if name == "weight" else 1
            return [(d * normalized).reshape(len(d), -1, *shape).sum(1) for d in cotangents]
        if name == "bias":
            return [d.reshape(len(d), *shape, -1).sum(2) for d in cotangents]
        x = self.normalized(call.layer, call.input)
        rows = x.reshape(-1, x.shape[2:].numel())  # (batch * channels, positions)
        found = (linalg.products(d.reshape(rows.shape), rows.unsqueeze(1)) for d in cotangents)
        return [products.view(len(d), -1).to(d.dtype) for products, d in zip(found, cotangents)]

    def outputs(self, call: Any, name: str, values: Tensor) -> Tensor:
        """See ``LayerKind``."""
        spread = self.spread(call, values)
        return spread * self.normalized(call.layer, call.input) if name == "weight" else spread


class BatchNormKind(Normalization):
    """Batch norm, with statistics of the batch or its own."""

    def normalized(self, layer: Any, x: Tensor) -> Tensor:
        """See ``Normalization``."""
        batch_statistics = layer.training or layer.running_mean is None
        mean, variance = (None, None) if batch_statistics else (layer.running_mean, layer.running_var)
        return F.batch_norm(x, mean, variance, training=batch_statistics, eps=layer.eps)


class GroupNormKind(Normalization):
    """Group norm."""

    def normalized(self, layer: Any, x: Tensor) -> Tensor:
        """See ``Normalization``."""
        return F.group_norm(x, layer.num_groups, eps=layer.eps)


class LayerNormKind(Normalization):
    """Layer norm, whose scale and shift act on the last dimensions."""

    on_channels = False

    def normalized(self, layer: Any, x: Tensor) -> Tensor:
        """See ``Normalization``."""
        return F.layer_norm(x, layer.normalized_shape, eps=layer.eps)


BatchNormKind(*BATCH_NORMS)
GroupNormKind(nn.GroupNorm)
LayerNormKind(nn.LayerNorm)
