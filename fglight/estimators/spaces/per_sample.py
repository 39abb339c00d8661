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

from fglight.autodiff import linalg
from fglight.autodiff.layers.calls import LayerCall
from fglight.autodiff.layers.unfolded import Unfolded
from fglight.autodiff.passes import BlockPass
from fglight.autodiff.rng import Generators, generators_at
from fglight.estimators.guesses.base import Guess, stack
from fglight.estimators.spaces.parts import Targets, WeightPart

CHUNK = 2**22
"""How many numbers a temporary of one layer may hold: samples are taken so many at a time."""


class SamplePart(WeightPart):
    """The directions of a parameter at each sample, of which no more are written out at once than ``CHUNK`` allows.

    Args:
        block_pass: the block.
        parameter: the parameter.
        call: the use of the layer that stands for it, or of the whole block as if it were a layer.
        name: of the parameter in that layer, empty for the whole block.
        guess: where the directions come from.
        cotangents: of the layer's output that give k guesses g_i each; None: they are drawn.
    """

    on_graph = True

    def __init__(
        self,
        block_pass: BlockPass,
        parameter: nn.Parameter,
        call: LayerCall,
        name: str,
        guess: Guess,
        cotangents: Sequence[Tensor] | None,
    ) -> None:
        self.block_pass, self.parameter, self.guess = block_pass, parameter, guess
        self.call, self.layer_name = call, name
        self.kind = call.kind(name, parameter)
        self.point = call if name else None
        self.cotangents = cotangents or ()
        self.kept: Tensor | None = None  # the directions of all samples, (k, batch, *shape), where they are few
        self.state: Generators | None = None  # from which directions are drawn, each time they are needed
        self.known: Tensor | None = None

    @property
    def count(self) -> tuple[int, int]:
        """See ``Part``."""
        return 1, self.guess.count(self.block_pass.block)

    @property
    def features(self) -> int:
        """See ``Part``."""
        return self.parameter.numel()

    def gram(self) -> Tensor:
        """See ``Part``."""
        if self.known is None:
            self._look(None)
        assert self.known is not None
        return self.known

    def products(self, targets: Targets) -> Tensor:
        """See ``Part``."""
        return self._look(targets[self.point])

    def squares(self, targets: Targets) -> Tensor:
        """See ``Part``."""
        rows = (self._gradients(samples, [targets[self.point][samples]])[0] for samples in self._chunks())
        return torch.cat([linalg.gram(t.reshape(len(t), 1, -1))[..., 0] for t in rows])

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
        self.kept, self.cotangents = None, ()  # as large as a layer's activations
        return {self.parameter: estimate.view_as(self.parameter).to(self.parameter.dtype)}

    def tangents(self) -> Iterator[Tensor]:
        """See ``WeightPart``: each sample moves along its own directions, all at once."""
        if self.kind is None or self.call.of_function:
            directions = torch.cat([g for _, _, g in self._pieces(None)], dim=1)
            yield torch.stack([self.block_pass.jvp_each(self.name, g) for g in directions])
            return
        outputs = [
            torch.stack([self.kind.outputs(self._cut(samples), self.layer_name, g) for g in directions])
            for samples, _, directions in self._pieces(None)
        ]
        moved = torch.cat(outputs, dim=1).view(-1, *self.call.shape)
        yield torch.stack([self.block_pass.jvp_from(self.call, tangent) for tangent in moved])

    def _look(self, target: Tensor | None) -> Tensor:
        """Inner products with a target's cotangent; others are noted."""
        found = []
        if self.unfolds and self._by_gram:
            for samples in self._chunks():
                part = None if target is None else target[samples]
                cotangents = [d[samples] for d in self.cotangents]
                found.append(self.unfolds.inner_products(self._cut(samples), part, cotangents))
        else:
            for _, t, g in self._pieces(target):
                g = g.reshape(*g.shape[:2], -1).transpose(0, 1)  # (batch, k, features)
                gram, nothing = linalg.gram(g), g.new_zeros(len(g), 0)
                found.append((nothing if t is None else linalg.products(t.reshape(len(t), -1), g), gram))
        products, gram = (torch.cat(rows) for rows in zip(*found))
        self.known = gram.unsqueeze(1)
        return products.unsqueeze(1)

    def _pieces(self, target: Tensor | None) -> Iterator[tuple[slice, Tensor | None, Tensor]]:
        """Some samples at a time, their targets ``(batch, *shape)`` and directions ``(k, batch, *shape)``."""
        if self.kept is not None:
            whole = slice(0, len(self.call.input))
            yield whole, None if target is None else self._gradients(whole, [target])[0], self.kept
            return
        chunks, kept = self._chunks(), list[Tensor]()
        state, drawn = self.state, not self.guess.is_gradient
        if state is None and drawn:
            self.state = Generators(self.call.input.device)
        with nullcontext() if state is None else generators_at(state):
            for samples in chunks:
                cotangents = [d[samples] for d in self.cotangents]
                # All at once, for they have the layer's input in common.
                found = self._gradients(samples, cotangents if target is None else [target[samples], *cotangents])
                t = None if target is None else found.pop(0)
                like = self.parameter.detach().expand(samples.stop - samples.start, *self.parameter.shape)
                pulled = [stack(found)] if found else None
                (g,) = self.guess.in_space(self.block_pass, pulled, [like], by_sample=True)
                if drawn:
                    g = self.block_pass.without_padding(self.parameter, g, fresh=False)
                kept.append(g)
                if len(chunks) > 1 and g[:, 0].numel() * len(self.call.input) > CHUNK:
                    kept.clear()
                yield samples, t, g
        self.kept = torch.cat(kept, dim=1) if len(kept) > 1 else kept[0] if kept else None

    def _gradients(self, samples: slice, cotangents: Sequence[Tensor]) -> list[Tensor]:
        """Every sample's gradient ``(batch, *shape)`` for each of several cotangents of the layer's output."""
        if self.kind is not None:
            return self.kind.gradients(self._cut(samples), self.layer_name, cotangents)
        return [self._by_loop(d) for d in cotangents]

    def _by_loop(self, cotangent: Tensor) -> Tensor:
        """Of any other layer: one vector-Jacobian product a sample, its cotangent alone."""
        gradients = []
        for i in range(len(cotangent)):
            alone = torch.zeros_like(cotangent)
            alone[i] = cotangent[i]
            gradients.append(self.call.vjp(self.parameter, alone))
        return torch.stack(gradients)

    def _cut(self, samples: slice) -> LayerCall:
        """The use of the layer, cut down to some samples."""
        return replace(self.call, input=self.call.input[samples])

    def _chunks(self) -> list[slice]:
        """Which samples to take at once."""
        batch = len(self.call.input)
        rows = batch
        recorded = self.block_pass.network.batch.compiled and not self.guess.is_gradient  # nothing could be drawn again
        if self.unfolds and not recorded:
            k = len(self.cotangents)
            rows = max(1, min(batch, CHUNK // self.unfolds.sizes(self.call).temporaries(k, gram=self._by_gram)))
        return [slice(start, min(start + rows, batch)) for start in range(0, batch, rows)]

    @cached_property
    def unfolds(self) -> Unfolded | None:
        """The kind of the layer, of a matrix that is applied at many positions."""
        return self.kind if isinstance(self.kind, Unfolded) and self.layer_name == "weight" else None

    @cached_property
    def _by_gram(self) -> bool:
        """Whether inner products are found by Gram matrices."""
        if self.unfolds is None or not self.guess.is_gradient:
            return False
        return self.unfolds.sizes(self.call).prefer_gram(len(self.cotangents))
