"""Normalisation layers: a scale and a shift of what is normalised."""

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

from torch import Tensor, nn

from fglight.autodiff import linalg
from fglight.autodiff.layers.kinds import LayerKind
from fglight.autodiff.parameters import replaced

BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
INSTANCE_NORMS = (nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)


class Normalization(LayerKind):
    """Layers that scale and shift what they give out without a weight and a bias.

    Args:
        *classes: see ``LayerKind``.
        on_channels: whether they do so along the channels, dimension 1, and not along the last dimensions.
    """

    def __init__(self, *classes: type[nn.Module], on_channels: bool) -> None:
        super().__init__(*classes)
        self.on_channels = on_channels

    def gradients(self, call: Any, name: str, cotangents: Sequence[Tensor]) -> list[Tensor]:
        """See ``LayerKind``."""
        shape = getattr(call.layer, name).shape
        if not self.on_channels:
            normalized = self._normalized(call) if name == "weight" else 1
            return [(d * normalized).reshape(len(d), -1, *shape).sum(1) for d in cotangents]
        if name == "bias":
            return [d.reshape(len(d), *shape, -1).sum(2) for d in cotangents]
        x = self._normalized(call)
        rows = x.reshape(-1, x.shape[2:].numel())  # (batch * channels, positions)
        found = (linalg.products(d.reshape(rows.shape), rows.unsqueeze(1)) for d in cotangents)
        return [products.view(len(d), -1).to(d.dtype) for products, d in zip(found, cotangents)]

    @staticmethod
    def _normalized(call: Any) -> Tensor:
        """The output before scale and shift."""
        around = nullcontext() if call.of_function else call.again()  # what stands for a function moves no statistics
        with around, replaced(call.layer, {"weight": None, "bias": None}):
            output: Tensor = call.layer.forward(call.input)
        return output


Normalization(*BATCH_NORMS, *INSTANCE_NORMS, nn.GroupNorm, on_channels=True)
Normalization(nn.LayerNorm, nn.RMSNorm, on_channels=False)
