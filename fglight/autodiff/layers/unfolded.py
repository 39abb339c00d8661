"""Layers with a matrix for a weight that is applied at many positions: linear layers, convolutions and embeddings.

With P positions (pixels or tokens) a sample, the input unfolds to U_i ``(K, P)`` and the output's cotangent to D_i
``(O, P)``, and sample i's gradient is D_i U_i^T ``(O, K)``. The inner product of two such gradients is ⟨D_i U_i^T, D'_i
U_i^T⟩ = ⟨D_i^T D'_i, U_i^T U_i⟩, which needs only P x P matrices: cheaper than the gradients themselves where there are
few positions and many channels, as late in a convolutional network.
"""

import sys
from abc import abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fglight.autodiff import linalg
from fglight.autodiff.layers.kinds import KINDS, LayerKind


@dataclass(frozen=True)
class Sizes:
    """What the gradients of a weight at a sample are made of.

    Attributes:
        groups: how many matrices there are.
        outputs: O, of a group.
        inputs: K, of a group.
        positions: P.
    """

    groups: int
    outputs: int
    inputs: int
    positions: int

    def prefer_gram(self, k: int) -> bool:
        """Whether P x P matrices are cheaper than the gradients, for a target's products with k of them."""
        pairs = k + k * (k + 1) // 2  # ⟨t, g_m⟩, and ⟨g_l, g_m⟩ for l <= m
        gradients = (k + 1) * self.positions * self.inputs * self.outputs
        return self.positions**2 * (self.inputs + pairs * self.outputs) < gradients

    def temporaries(self, k: int, *, gram: bool) -> int:
        """How many numbers a sample takes for that."""
        matrices = 2 * self.positions**2 if gram else (k + 1) * self.inputs * self.outputs
        return self.groups * (self.inputs * self.positions + matrices)


class Unfolded(LayerKind):
    """What linear layers and convolutions have in common."""

    @abstractmethod
    def columns(self, call: Any) -> Tensor:
        """U: the input as columns, ``(batch, groups, K, P)``."""

    def inputs_gram(self, call: Any) -> Tensor:
        """U_i^T U_i, ``(batch, groups, P, P)``."""
        columns = self.columns(call)
        return columns.mT @ columns

    @abstractmethod
    def rows(self, layer: Any, cotangent: Tensor) -> Tensor:
        """D: the cotangent of the output, ``(batch, groups, O, P)``."""

    @abstractmethod
    def sizes(self, call: Any) -> Sizes:
        """The numbers of all of them."""

    def gradients(self, call: Any, name: str, cotangents: Sequence[Tensor]) -> list[Tensor]:
        """See ``LayerKind``."""
        if name == "bias":
            return [self.rows(call.layer, d).sum(3).flatten(1) for d in cotangents]
        columns, rows = self.columns(call), [self.rows(call.layer, d) for d in cotangents]
        if rows and rows[0].shape[2] == 1:  # depthwise: several times as fast on CPUs, of all cotangents at once
            found: Iterable[Tensor] = (columns @ torch.cat(rows, 2).mT).unbind(3)
        else:
            found = (d @ columns.mT for d in rows)
        return [gradients.reshape(len(columns), *call.layer.weight.shape) for gradients in found]

    def inner_products(self, call: Any, target: Tensor | None, cotangents: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Inner products of the weight's gradients at every sample, by Gram matrices.

        Args:
            call: the use of the layer.
            target: cotangent of the layer's output that gives targets t_i; None for none.
            cotangents: k of them, that give guesses g_i.

        Returns:
            ⟨t_i, g_im⟩ ``(batch, k)``, of empty rows without a target, and ⟨g_il, g_im⟩ ``(batch, k, k)``.
        """
        inputs = self.inputs_gram(call).flatten(1)  # (batch, groups * P * P)
        gs = [self.rows(call.layer, d) for d in cotangents]
        t = None if target is None else self.rows(call.layer, target)

        def product(left: Tensor, right: Tensor) -> Tensor:
            return linalg.products(inputs, (left.mT @ right).flatten(1).unsqueeze(1))[:, 0]

        pairs = {(m, n): product(gs[m], gs[n]) for n in range(len(gs)) for m in range(n + 1)}
        gram = [[pairs[min(m, n), max(m, n)] for n in range(len(gs))] for m in range(len(gs))]
        products = inputs.new_zeros(len(inputs), 0) if t is None else torch.stack([product(t, g) for g in gs], dim=1)
        return products, torch.stack([torch.stack(row, dim=1) for row in gram], dim=1)


class LinearKind(Unfolded):
    """Linear layers: positions are all dimensions between the first and the last."""

    def columns(self, call: Any) -> Tensor:
        """See ``Unfolded``."""
        return call.input.reshape(len(call.input), 1, -1, call.input.shape[-1]).transpose(2, 3)

    def rows(self, layer: Any, cotangent: Tensor) -> Tensor:
        """See ``Unfolded``."""
        return cotangent.reshape(len(cotangent), 1, -1, cotangent.shape[-1]).transpose(2, 3)

    def sizes(self, call: Any) -> Sizes:
        """See ``Unfolded``."""
        return Sizes(1, call.shape[-1], call.input.shape[-1], call.shape[1:-1].numel())


class ConvolutionKind(Unfolded):
    """Convolutions of any number of dimensions."""

    def columns(self, call: Any) -> Tensor:
        """See ``Unfolded``; by views and one copy, several times as fast on CPUs as ``F.unfold``."""
        layer, spatial = call.layer, len(call.layer.kernel_size)
        mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
        x, padding = call.input, layer._reversed_padding_repeated_twice
        if any(padding):  # else a copy
            x = F.pad(x, padding, mode=mode)
        for dimension in range(spatial):
            size, dilation = layer.kernel_size[dimension], layer.dilation[dimension]
            x = x.unfold(dimension + 2, dilation * (size - 1) + 1, layer.stride[dimension])[..., ::dilation]
        positions, kernel = range(2, 2 + spatial), range(2 + spatial, 2 + 2 * spatial)
        rows = x.shape[1] // layer.groups * x.shape[2 + spatial :].numel()
        return x.permute(0, 1, *kernel, *positions).reshape(len(x), layer.groups, rows, -1)

    def rows(self, layer: Any, cotangent: Tensor) -> Tensor:
        """See ``Unfolded``."""
        return cotangent.reshape(len(cotangent), layer.groups, layer.out_channels // layer.groups, -1)

    def sizes(self, call: Any) -> Sizes:
        """See ``Unfolded``."""
        layer = call.layer
        inputs = layer.weight[0].numel()
        return Sizes(layer.groups, layer.out_channels // layer.groups, inputs, call.shape[2:].numel())


class TransposedLinearKind(LinearKind):
    """Linear layers whose weight is ``(inputs, outputs)``, as GPT-2's."""

    def gradients(self, call: Any, name: str, cotangents: Sequence[Tensor]) -> list[Tensor]:
        """See ``LayerKind``."""
        if name == "bias":
            return super().gradients(call, name, cotangents)
        columns = self.columns(call)[:, 0]  # (batch, K, P)
        return [columns @ self.rows(call.layer, d)[:, 0].mT for d in cotangents]


class EmbeddingKind(LinearKind):
    """Embeddings: linear layers that take in which of their inputs is one, at every position."""

    def holds(self, layer: Any) -> bool:
        """See ``LayerKind``."""
        return layer.max_norm is None and not layer.scale_grad_by_freq

    def columns(self, call: Any) -> Tensor:
        """See ``Unfolded``."""
        rows = torch.arange(call.layer.num_embeddings, device=call.input.device)
        return (rows[:, None] == self._tokens(call)[:, None]).to(call.layer.weight.dtype)[:, None]

    def inputs_gram(self, call: Any) -> Tensor:
        """See ``Unfolded``."""
        tokens = self._tokens(call)
        same = (tokens[:, :, None] == tokens[:, None]) & (tokens >= 0)[:, None]
        return same.to(call.layer.weight.dtype)[:, None]

    def sizes(self, call: Any) -> Sizes:
        """See ``Unfolded``."""
        return Sizes(1, call.layer.embedding_dim, call.layer.num_embeddings, call.input.shape[1:].numel())

    def gradients(self, call: Any, name: str, cotangents: Sequence[Tensor]) -> list[Tensor]:
        """See ``LayerKind``."""
        tokens = self._tokens(call)
        batch = torch.arange(len(tokens), device=tokens.device)[:, None]
        found = []
        for d in cotangents:
            rows = torch.where((tokens >= 0)[..., None], self.rows(call.layer, d)[:, 0].mT, 0)
            zeros = rows.new_zeros(len(d), *call.layer.weight.shape)
            found.append(zeros.index_put((batch, tokens.clamp(0)), rows, accumulate=True))
        return found

    @staticmethod
    def _tokens(call: Any) -> Tensor:
        """Which row is taken, ``(batch, P)``; -1 for the one without a gradient."""
        tokens = call.input.reshape(len(call.input), -1)
        padding = call.layer.padding_idx
        return tokens if padding is None else torch.where(tokens == padding, -1, tokens)


LinearKind(nn.Linear)
EmbeddingKind(nn.Embedding)
ConvolutionKind(nn.Conv1d, nn.Conv2d, nn.Conv3d)


def learn_from_loaded_packages() -> None:
    """Know the layers of packages that need not be there, once they are."""
    convolution = getattr(sys.modules.get("transformers.pytorch_utils"), "Conv1D", None)
    if convolution is not None and convolution not in KINDS:
        TransposedLinearKind(convolution)
