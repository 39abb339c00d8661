"""Every sample's gradient of one parameter, and inner products of such gradients, by whichever way is cheaper.

Target and guess come as cotangents of the output of the parameter's layer. Either both are turned into gradients, a few
samples at a time, or (Gram matrices, see ``layers``) their inner products are found without.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, reduce

import torch
from torch import Tensor, nn

from fglight.estimators import layers, linalg
from fglight.estimators.guesses.base import Guess, stack
from fglight.estimators.layers import LayerCall
from fglight.estimators.parameters import without_row

CHUNK = 2**22
"""How many numbers a temporary of one layer may hold: samples are taken so many at a time."""


@dataclass
class ParameterUse:
    """The use of one parameter, with what makes target and guesses of it at each sample.

    Attributes:
        parameter: the parameter.
        call: the use of the layer that stands for it, or of the whole block as if it were a layer.
        name: of the parameter in that layer, empty for the whole block.
        guess: where the directions come from.
        row: of an embedding that no gradient reaches; None where there is none.
        target: cotangent of the layer's output that gives the targets t_i; None where they are not needed.
        directions: cotangents that give k guesses g_i each; None: they are drawn.
    """

    parameter: nn.Parameter
    call: LayerCall
    name: str
    guess: Guess
    row: int | None = None
    target: Tensor | None = None
    directions: Sequence[Tensor] | None = None

    @cached_property
    def by_gram(self) -> bool:
        """Whether P x P Gram matrices are cheaper than per-sample gradients."""
        if self.directions is None or self.guess.draws or not self._unfolds:
            return False
        _, outputs, positions, inputs = self._sizes
        k = len(self.directions)
        pairs = k + k * (k + 1) // 2  # ⟨t, g_m⟩, and ⟨g_l, g_m⟩ for l <= m
        return positions**2 * (inputs + pairs * outputs) < (k + 1) * positions * inputs * outputs

    def chunks(self) -> Iterator[tuple[slice, "ParameterUse"]]:
        """Which samples to take at once, and the use cut down to them."""
        batch = len(self.call.input)
        rows = batch
        if self._unfolds:
            groups, outputs, positions, inputs = self._sizes
            count = 1 + (1 if self.directions is None else len(self.directions))
            temporary = inputs * positions + (2 * positions**2 if self.by_gram else count * inputs * outputs)
            rows = max(1, min(batch, CHUNK // (groups * temporary)))
        for start in range(0, batch, rows):
            samples = slice(start, start + rows)
            target = None if self.target is None else self.target[samples]
            directions = None if self.directions is None else [direction[samples] for direction in self.directions]
            call = replace(self.call, input=self.call.input[samples])
            yield samples, replace(self, call=call, target=target, directions=directions)

    def gradients(self) -> tuple[Tensor | None, Tensor]:
        """Targets, ``(batch, *parameter.shape)``, where there are any, and guesses, ``(k, batch, ...)``."""
        # All at once, for they have the layer's input in common.
        cotangents = [*([] if self.target is None else [self.target]), *(self.directions or [])]
        found = layers.per_sample_gradients(self.call, self.name, self.parameter, cotangents)
        target = None if self.target is None else found.pop(0)
        like = self.parameter.detach().expand(len(self.call.input), *self.parameter.shape)
        directions = self.guess.by_sample(stack(found) if self.directions else None, like)
        return target, directions if self.row is None else without_row(directions, self.parameter.dim(), self.row)

    def tangents(self) -> list[Tensor]:
        """How the layer's output changes at each sample as the parameter moves along that sample's guesses: J_i g_i.

        For each of the k a tangent of the layer's output, in its shape, for a layer that ``layers`` knows.
        """
        parts = [
            [layers.layer_outputs(part.call, part.name, g) for g in replace(part, target=None).gradients()[1]]
            for _, part in self.chunks()
        ]
        return [torch.cat(outputs).view(self.call.shape) for outputs in zip(*parts)]

    def pull_back(self, factors: Tensor) -> Tensor:
        """The sum of the guesses with a factor ``(batch, k)`` for each, in the parameter's shape."""
        scales = factors.mT.reshape(factors.shape[1], len(factors), *[1] * (self.directions[0].dim() - 1))
        parts = [scale.to(direction.dtype) * direction for scale, direction in zip(scales, self.directions)]
        return self.call.vjp(self.parameter, reduce(torch.add, parts))

    @property
    def _unfolds(self) -> bool:
        known = layers.knows_layer(self.call, self.name, self.parameter)
        return known and self.name == "weight" and type(self.call.layer) in (nn.Conv2d, nn.Linear)

    @property
    def _sizes(self) -> tuple[int, int, int, int]:
        groups, outputs, positions = layers.unfolded_shape(self.call)
        return groups, outputs, positions, self.parameter.numel() // (groups * outputs)


@dataclass
class InnerProducts:
    """Inner products of targets and guesses of several samples.

    Attributes:
        products: ⟨t_i, g_im⟩, ``(batch, k)``; None where there are no targets.
        gram: ⟨g_il, g_im⟩, ``(batch, k, k)``.
        lengths: |t_i|^2, ``(batch,)``; None where they are not wanted.
    """

    products: Tensor | None
    gram: Tensor
    lengths: Tensor | None

    @classmethod
    def of(cls, target: Tensor | None, directions: Tensor, *, lengths: bool) -> "InnerProducts":
        """From gradients, ``(batch, features)`` and ``(batch, k, features)``."""
        return cls(
            None if target is None else linalg.products(target, directions),
            linalg.gram(directions),
            linalg.gram(target.unsqueeze(1))[:, 0, 0] if lengths else None,
        )

    @classmethod
    def by_gram(cls, use: ParameterUse, *, lengths: bool) -> "InnerProducts":
        """Of a convolution's or linear layer's weight, by Gram matrices."""
        columns = layers.unfold(use.call.layer, use.call.input)  # (batch, groups, K, P)
        inputs = (columns.mT @ columns).flatten(1)  # (batch, groups * P * P)
        gs = [layers.unfold_cotangent(use.call.layer, d) for d in use.directions]  # k of (batch, groups, O, P)
        t = None if use.target is None else layers.unfold_cotangent(use.call.layer, use.target)

        def product(left: Tensor, right: Tensor) -> Tensor:
            return linalg.products(inputs, (left.mT @ right).flatten(1).unsqueeze(1))[:, 0]

        rows = {(m, n): product(gs[m], gs[n]) for n in range(len(gs)) for m in range(n + 1)}
        return cls(
            None if t is None else torch.stack([product(t, g) for g in gs], dim=1),
            torch.stack(
                [torch.stack([rows[min(m, n), max(m, n)] for n in range(len(gs))], dim=1) for m in range(len(gs))],
                dim=1,
            ),
            product(t, t) if lengths else None,
        )

    def cosines(self, coefficients: Tensor) -> Tensor:
        """Cosine similarities, ``(batch,)``, of t_i and g_i, or its estimate by coefficients ``(batch, k)``."""
        products, gram, c = (x.unsqueeze(1) for x in (self.products, self.gram, coefficients))
        return linalg.cosine(products, gram, c, self.lengths)
