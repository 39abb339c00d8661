"""The directions of one parameter at every sample, and their inner products, by whichever way is cheaper.

Target and guess come as cotangents of the output of the parameter's layer. Either both are turned into gradients, a few
samples at a time, or (Gram matrices, see ``layers``) their inner products are found without.
"""

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import cached_property

import torch
from torch import Tensor, nn

from fglight.estimators import layers, linalg
from fglight.estimators.generators import Generators, generators_at
from fglight.estimators.guesses.base import Guess, stack
from fglight.estimators.layers import LayerCall
from fglight.estimators.parameters import without_row
from fglight.estimators.passes import BlockPass
from fglight.estimators.spaces.parts import Targets, WeightPart

CHUNK = 2**22
"""How many numbers a temporary of one layer may hold: samples are taken so many at a time."""


class SamplePart(WeightPart):
    """The directions of a parameter at each sample, of which no more are written out at once than ``CHUNK`` allows.

    Args:
        here: the block.
        parameter: the parameter.
        call: the use of the layer that stands for it, or of the whole block as if it were a layer.
        name: of the parameter in that layer, empty for the whole block.
        guess: where the directions come from.
        cotangents: of the layer's output that give k guesses g_i each; None: they are drawn.
        cosine: whether |t_i|² is wanted, too.
    """

    on_graph = True

    def __init__(
        self,
        here: BlockPass,
        parameter: nn.Parameter,
        call: LayerCall,
        name: str,
        guess: Guess,
        cotangents: Sequence[Tensor] | None,
        *,
        cosine: bool,
    ) -> None:
        self.here, self.parameter, self.call, self.layer_name, self.guess = here, parameter, call, name, guess
        self.points = [call if name else None]
        self.cotangents = cotangents
        self.cosine = cosine
        self.kept: Tensor | None = None  # the directions of all samples, (k, batch, *shape), where they are few
        self.state: Generators | None = None  # from which directions are drawn, each time they are needed
        self.known: tuple[Tensor, Tensor] | None = None

    @property
    def count(self) -> tuple[int, int]:
        """See ``Part``."""
        return 1, self.guess.count(self.here.block)

    @property
    def features(self) -> int:
        """See ``Part``."""
        return self.parameter.numel()

    def gram(self) -> Tensor:
        """See ``Part``."""
        if self.known is None:
            self._look(None)
        assert self.known is not None
        return self.known[0]

    def products(self, targets: Targets) -> Tensor:
        """See ``Part``."""
        return self._look(targets[self.points[0]])

    def squares(self, targets: Targets) -> Tensor:
        """See ``Part``; after ``products``."""
        assert self.known is not None
        return self.known[1]

    def pull_back(self, c: Tensor) -> dict[nn.Parameter, Tensor]:
        """See ``Part``: the sum over samples as well (Eq. 4 per sample)."""
        c = c.squeeze(1).mT  # (k, batch)
        if self.kept is None and self.guess.is_gradient:  # a weight gradient, with cotangents that are scaled
            scales = c.reshape(*c.shape, *[1] * (self.cotangents[0].dim() - 1))
            scaled = [scale.to(direction.dtype) * direction for scale, direction in zip(scales, self.cotangents)]
            estimate = self.call.vjp(self.parameter, torch.stack(scaled).sum(0))
        else:
            estimate = torch.stack(
                [
                    c[:, samples].flatten().to(g.dtype) @ g.reshape(g.shape[:2].numel(), -1)
                    for samples, _, g in self._pieces(None)
                ]
            ).sum(0)
        return {self.parameter: estimate.view_as(self.parameter).to(self.parameter.dtype)}

    def tangents(self) -> Iterator[Tensor]:
        """See ``WeightPart``: each sample moves along its own directions, all at once."""
        if not layers.knows_layer(self.call, self.layer_name, self.parameter):
            ((_, _, directions),) = self._pieces(None)
            yield torch.stack([self.here.jvp_each(self.name, g) for g in directions])
            return
        outputs = [
            torch.stack([layers.layer_outputs(self._cut(samples), self.layer_name, g) for g in directions])
            for samples, _, directions in self._pieces(None)
        ]
        moved = torch.cat(outputs, dim=1).view(-1, *self.call.shape)
        yield torch.stack([self.here.jvp_from(self.call, tangent) for tangent in moved])

    def _look(self, target: Tensor | None) -> Tensor:
        """Inner products with a target's cotangent; others are noted."""
        found = []
        if self._by_gram:
            for samples in self._chunks():
                part = None if target is None else target[samples]
                found.append(self._gram_products(self._cut(samples), part, [d[samples] for d in self.cotangents]))
        else:
            for _, t, g in self._pieces(target):
                g = g.reshape(*g.shape[:2], -1).transpose(0, 1)  # (batch, k, features)
                gram, nothing = linalg.gram(g), g.new_zeros(len(g), 0)
                t = None if t is None else t.reshape(len(t), -1)
                products = nothing if t is None else linalg.products(t, g)
                found.append((products, gram, linalg.gram(t.unsqueeze(1))[:, 0, 0] if self.cosine else nothing))
        products, gram, squares = (torch.cat(rows) for rows in zip(*found))
        self.known = gram.unsqueeze(1), squares
        return products.unsqueeze(1)

    def _pieces(self, target: Tensor | None) -> Iterator[tuple[slice, Tensor | None, Tensor]]:
        """Some samples at a time, their targets ``(batch, *shape)`` and directions ``(k, batch, *shape)``."""
        if self.kept is not None:
            whole = slice(0, len(self.call.input))
            yield whole, None if target is None else self._gradients(whole, [target])[0], self.kept
            return
        chunks, kept = self._chunks(), list[Tensor]()
        first, drawn = self.state is None, not self.guess.is_gradient
        if first and drawn:
            self.state = Generators(self.call.input.device)
        with nullcontext() if first or not drawn else generators_at(self.state):
            for samples in chunks:
                cotangents = [] if self.cotangents is None else [d[samples] for d in self.cotangents]
                # All at once, for they have the layer's input in common.
                found = self._gradients(samples, cotangents if target is None else [target[samples], *cotangents])
                t = None if target is None else found.pop(0)
                like = self.parameter.detach().expand(samples.stop - samples.start, *self.parameter.shape)
                pulled = [stack(found)] if found else None
                (g,) = self.guess.in_space(self.here, pulled, [like], by_sample=True)
                if drawn and self.parameter in self.here.padding:
                    g = without_row(g, self.parameter.dim(), self.here.padding[self.parameter])
                kept.append(g)
                if len(chunks) > 1 and g[:, 0].numel() * len(self.call.input) > CHUNK:
                    kept.clear()
                yield samples, t, g
        self.kept = torch.cat(kept, dim=1) if len(kept) > 1 else kept[0] if kept else None

    def _gradients(self, samples: slice, cotangents: Sequence[Tensor]) -> list[Tensor]:
        return layers.per_sample_gradients(self._cut(samples), self.layer_name, self.parameter, cotangents)

    def _cut(self, samples: slice) -> LayerCall:
        """The use of the layer, cut down to some samples."""
        return replace(self.call, input=self.call.input[samples])

    def _chunks(self) -> list[slice]:
        """Which samples to take at once."""
        batch = len(self.call.input)
        rows = batch
        recorded = self.here.network.batch.compiled and not self.guess.is_gradient  # nothing could be drawn again
        if self._unfolds and not recorded:
            groups, outputs, positions, inputs = self._sizes
            count = 1 + (1 if self.cotangents is None else len(self.cotangents))
            temporary = inputs * positions + (2 * positions**2 if self._by_gram else count * inputs * outputs)
            rows = max(1, min(batch, CHUNK // (groups * temporary)))
        return [slice(start, min(start + rows, batch)) for start in range(0, batch, rows)]

    @cached_property
    def _by_gram(self) -> bool:
        """Whether P x P Gram matrices are cheaper than per-sample gradients."""
        if not self.guess.is_gradient or not self._unfolds:
            return False
        _, outputs, positions, inputs = self._sizes
        k = len(self.cotangents)
        pairs = k + k * (k + 1) // 2  # ⟨t, g_m⟩, and ⟨g_l, g_m⟩ for l <= m
        return positions**2 * (inputs + pairs * outputs) < (k + 1) * positions * inputs * outputs

    @property
    def _unfolds(self) -> bool:
        known = layers.knows_layer(self.call, self.layer_name, self.parameter)
        return known and self.layer_name == "weight" and type(self.call.layer) in (nn.Conv2d, nn.Linear)

    @property
    def _sizes(self) -> tuple[int, int, int, int]:
        groups, outputs, positions = layers.unfolded_shape(self.call)
        return groups, outputs, positions, self.parameter.numel() // (groups * outputs)

    def _gram_products(
        self, call: LayerCall, target: Tensor | None, cotangents: Sequence[Tensor]
    ) -> tuple[Tensor, ...]:
        """⟨t_i, g_im⟩ ``(batch, k)``, ⟨g_il, g_im⟩ and |t_i|² of a weight, by Gram matrices; empty without a target."""
        columns = layers.unfold(call.layer, call.input)  # (batch, groups, K, P)
        inputs = (columns.mT @ columns).flatten(1)  # (batch, groups * P * P)
        gs = [layers.unfold_cotangent(call.layer, d) for d in cotangents]  # k of (batch, groups, O, P)
        t = None if target is None else layers.unfold_cotangent(call.layer, target)

        def product(left: Tensor, right: Tensor) -> Tensor:
            return linalg.products(inputs, (left.mT @ right).flatten(1).unsqueeze(1))[:, 0]

        rows = {(m, n): product(gs[m], gs[n]) for n in range(len(gs)) for m in range(n + 1)}
        gram = [[rows[min(m, n), max(m, n)] for n in range(len(gs))] for m in range(len(gs))]
        nothing = inputs.new_zeros(len(inputs), 0)
        return (
            nothing if t is None else torch.stack([product(t, g) for g in gs], dim=1),
            torch.stack([torch.stack(row, dim=1) for row in gram], dim=1),
            product(t, t) if self.cosine else nothing,
        )
