"""Every sample's gradient of one parameter, and inner products of such gradients, by whichever way is cheaper.

Target and guess come as cotangents of the output of the parameter's layer. Either both are turned into gradients, a few
samples at a time, or (Gram matrices, see ``layers``) their inner products are found without.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor, nn

from fglight.estimators import layers, linalg
from fglight.estimators.guesses.base import Guess
from fglight.estimators.layers import LayerCall

CHUNK = 2**22
"""How many numbers a temporary of one layer may hold: samples are taken so many at a time."""


@dataclass
class ParameterUse:
    """The use of one parameter, with what makes target and guess of it at each sample.

    Attributes:
        parameter: the parameter.
        call: the use of the layer that stands for it, or of the whole block as if it were a layer.
        name: of the parameter in that layer, empty for the whole block.
        target: cotangent of the layer's output that gives the targets t_i; None where they are not needed.
        direction: cotangent that gives the guesses g_i; None: they are drawn.
    """

    parameter: nn.Parameter
    call: LayerCall
    name: str
    target: Tensor | None = None
    direction: Tensor | None = None

    @cached_property
    def by_gram(self) -> bool:
        """Whether P x P Gram matrices are cheaper than per-sample gradients."""
        if self.direction is None or not self._unfolds:
            return False
        _, outputs, positions, inputs = self._sizes
        return positions**2 * (inputs + 2 * outputs) < 2 * positions * inputs * outputs

    def chunks(self) -> Iterator[tuple[slice, "ParameterUse"]]:
        """Which samples to take at once, and the use cut down to them."""
        batch = len(self.call.input)
        rows = batch
        if self._unfolds:
            groups, outputs, positions, inputs = self._sizes
            temporary = inputs * positions + 2 * (positions**2 if self.by_gram else inputs * outputs)
            rows = max(1, min(batch, CHUNK // (groups * temporary)))
        for start in range(0, batch, rows):
            samples = slice(start, start + rows)
            target, direction = (None if x is None else x[samples] for x in (self.target, self.direction))
            call = replace(self.call, input=self.call.input[samples])
            yield samples, replace(self, call=call, target=target, direction=direction)

    def gradients(self, guess: Guess) -> tuple[Tensor | None, Tensor]:
        """Targets, where there are any, and guesses, each ``(batch, *parameter.shape)``."""
        # Both at once, for they have the layer's input in common.
        cotangents = [x for x in (self.target, self.direction) if x is not None]
        found = iter(layers.per_sample_gradients(self.call, self.name, self.parameter, cotangents))
        target = None if self.target is None else next(found)
        return target, self._draw(guess) if self.direction is None else next(found)

    def tangents(self, guess: Guess) -> Tensor:
        """How the layer's output changes at each sample as the parameter moves along that sample's guess: J_i g_i.

        It is a tangent of the layer's output, in its shape, for a layer that ``layers`` knows.
        """
        parts = [
            layers.layer_outputs(part.call, part.name, replace(part, target=None).gradients(guess)[1])
            for _, part in self.chunks()
        ]
        return torch.cat(parts).view(self.call.shape)

    def pull_back(self, factors: Tensor) -> Tensor:
        """The sum of the guesses with a factor ``(batch,)`` for each, in the parameter's shape."""
        scale = factors.view(-1, *[1] * (self.direction.dim() - 1))
        return self.call.vjp(self.parameter, scale.to(self.direction.dtype) * self.direction)

    @property
    def _unfolds(self) -> bool:
        return self.name == "weight" and type(self.call.layer) in (nn.Conv2d, nn.Linear)

    @property
    def _sizes(self) -> tuple[int, int, int, int]:
        groups, outputs, positions = layers.unfolded_shape(self.call)
        return groups, outputs, positions, self.parameter.numel() // (groups * outputs)

    def _draw(self, guess: Guess) -> Tensor:
        """A random direction for each sample."""
        return guess.sample(self.parameter.detach().expand(len(self.call.input), *self.parameter.shape))


@dataclass
class InnerProducts:
    """Inner products of targets and guesses of several samples.

    Attributes:
        products: ⟨t_i, g_i⟩, ``(batch,)``; None where there are no targets.
        squares: |g_i|^2, ``(batch,)``.
        lengths: |t_i|^2, ``(batch,)``; None where they are not wanted.
    """

    products: Tensor | None
    squares: Tensor
    lengths: Tensor | None

    @classmethod
    def of(cls, target: Tensor | None, direction: Tensor, *, lengths: bool) -> "InnerProducts":
        """From gradients, ``(batch, features)``."""
        return cls(
            None if target is None else linalg.products(target, direction.unsqueeze(1))[:, 0],
            linalg.gram(direction.unsqueeze(1))[:, 0, 0],
            linalg.gram(target.unsqueeze(1))[:, 0, 0] if lengths else None,
        )

    @classmethod
    def by_gram(cls, use: ParameterUse, *, lengths: bool) -> "InnerProducts":
        """Of a convolution's or linear layer's weight, by Gram matrices."""
        columns = layers.unfold(use.call.layer, use.call.input)  # (batch, groups, K, P)
        inputs = (columns.mT @ columns).flatten(1)  # (batch, groups * P * P)
        g = layers.unfold_cotangent(use.call.layer, use.direction)  # (batch, groups, O, P)
        t = None if use.target is None else layers.unfold_cotangent(use.call.layer, use.target)

        def product(left: Tensor, right: Tensor) -> Tensor:
            return linalg.products(inputs, (left.mT @ right).flatten(1).unsqueeze(1))[:, 0]

        return cls(None if t is None else product(t, g), product(g, g), product(t, t) if lengths else None)

    def cosines(self) -> Tensor:
        """Cosine similarities of t_i and g_i, ``(batch,)``."""
        product = self.products.view(-1, 1, 1)
        return linalg.cosine(product, self.squares.view(-1, 1, 1, 1), product, self.lengths)
