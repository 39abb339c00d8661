"""Weight perturbation: the projection takes place in the space of a block's parameters."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor, nn

from fglight.estimators import linalg
from fglight.estimators.duals import TANGENTS
from fglight.estimators.guesses.base import Guess
from fglight.estimators.layers import CONVOLUTIONS, NO_SINGLE_USE, LayerCall, record_calls, weight_output
from fglight.estimators.passes import BlockPass
from fglight.estimators.perturbations.base import Perturbation
from fglight.estimators.perturbations.estimate import BlockDerivative, BlockTarget, Estimate, TargetGradient
from fglight.estimators.units import Granularity


class WeightPerturbation(Perturbation):
    """The batch gradient with respect to theta_j projected on the guess in the same space (Eq. 4).

    One coefficient stands for a parameter ``tensor`` (as in the released code), a ``block`` (all of theta_j, Eq. 4 read
    literally), the whole ``network`` (Baydin et al. 2022), or as little as a ``filter``: an output channel of a
    convolution, a row of a linear layer's weight, an entry of a bias or scale.

    The target enters through its inner product with the guess alone, and so the gradients of convolution and linear
    weights are never computed: with cotangent d at the layer's output and guess g, ⟨t, g⟩ = ⟨d, layer(x; g)⟩, a forward
    pass of the layer with the guess for a weight (its Jacobian-vector product). For several directions the target
    itself is the better way, and the cosine, which needs the norm of the target, takes it too.
    """

    granularities: ClassVar = {
        "tensor": Granularity(),
        "block": Granularity(joins_tensors=True),
        "network": Granularity(joins_tensors=True, joins_blocks=True),
        "filter": Granularity(dimensions=1),
    }
    by_sample = False

    def slow(self, here: BlockPass, parameter: nn.Parameter, guess: Guess, *, aims: bool) -> str:
        """See ``Perturbation``: where the target of a weight is computed."""
        weights = [module.weight for module in here.block.body.modules() if type(module) in (nn.Linear, *CONVOLUTIONS)]
        if not aims or not any(parameter is weight for weight in weights):
            return ""
        cost = "its target is computed, as much as a weight gradient in backpropagation"
        if guess.count(here.block) > 1:
            return f"several directions: {cost}"
        return "" if parameter in here.weight_calls else f"{NO_SINGLE_USE}: {cost}"

    def recording(self, body: nn.Module) -> AbstractContextManager[list[LayerCall]]:
        """Record what the layers take in while a block runs."""
        return record_calls(body)

    def points(self, here: BlockPass, guess: Guess, *, cosine: bool) -> Sequence[Tensor | LayerCall]:
        """See ``Perturbation``: parameters, or in their place the outputs of layers that they are the weights of."""
        if guess.count(here.block) > 1:
            return here.parameters
        # Estimates are the same to the last bit with and without cosine.
        return [here.weight_calls.get(p, p) for p in here.parameters] + (here.parameters if cosine else [])

    def reuses_graph(self, guess: Guess) -> bool:
        """See ``Perturbation``."""
        return guess.needs_graph

    def __call__(
        self, targets: Iterable[BlockTarget], guess: Guess, *, cosine: bool = False
    ) -> Iterator[tuple[BlockPass, Estimate]]:
        """See ``Perturbation``; only one coefficient for the network needs all blocks' guesses at once."""
        if not self.units.joins_blocks:
            yield from super().__call__(targets, guess, cosine=cosine)
        else:
            yield from self._estimate_jointly(self.in_drawing_order(targets, guess), guess, cosine=cosine)

    def estimate(self, here: BlockPass, target: TargetGradient | None, guess: Guess, *, cosine: bool) -> Estimate:
        """See ``Perturbation``; the cosine is the mean over parameter tensors."""
        return self._estimate_jointly([(here, target)], guess, cosine=cosine)[0][1]

    def draws_early(self, guess: Guess) -> bool:
        """See ``Perturbation``."""
        return guess.drawn and not guess.needs_graph

    def directions(self, here: BlockPass, guess: Guess) -> list[Tensor]:
        """See ``Perturbation``: ``(k, *shape)`` for each parameter tensor."""
        if here.directions is None:
            return guess.weight(here)
        directions, here.directions = here.directions, None
        return directions

    def _estimate_jointly(
        self, targets: Iterable[BlockTarget], guess: Guess, *, cosine: bool
    ) -> list[tuple[BlockPass, Estimate]]:
        """The estimates of several blocks, which may share a coefficient."""
        blocks, guesses, products, squares = [], [], [], []
        for here, target in targets:
            g = self.guesses(here, guess)
            blocks.append(here)
            guesses.append(g)
            if target is None:
                continue
            exact = target.inside[-len(here.parameters) :]
            if guess.count(here.block) > 1:
                local = [linalg.products(self.units.cut(t.unsqueeze(0))[:, 0], d) for t, d in zip(exact, g)]
            else:
                local = self._products_by_layer(here, target, g)
            products.append(here.network.batch.sum(local))
            if cosine:
                squares.append([linalg.gram(t.reshape(1, 1, -1)).sum() for t in here.network.batch.sum(exact)])
            target.release()
        if not blocks:
            return []
        grams = [[linalg.gram(d) for d in tensors] for tensors in guesses]
        coefficients = self._coefficients(blocks[0], products, grams, guesses, guess)
        estimates = [Estimate(_combine(here, c, g)) for here, c, g in zip(blocks, coefficients, guesses)]
        for estimate, *tensors in zip(estimates, products, grams, coefficients, squares):
            estimate.cosine = torch.stack([linalg.cosine(*tensor) for tensor in zip(*tensors)]).mean()
        return list(zip(blocks, estimates))

    def guesses(self, here: BlockPass, guess: Guess) -> list[Tensor]:
        """The guess for each parameter tensor, ``(units, k, features)``, the same in all processes."""
        directions, batch = self.directions(here, guess), here.network.batch
        if not guess.pulled:
            directions = here.without_padding(directions)
        return [self.units.cut(g) for g in (directions if guess.alike else batch.sum(directions))]

    def _coefficients(
        self,
        here: BlockPass,
        products: list[list[Tensor]],
        grams: list[list[Tensor]],
        guesses: Sequence[Sequence[Tensor]],
        guess: Guess,
    ) -> list[list[Tensor]]:
        """The coefficients that belong together.

        Args:
            here: one of the blocks.
            products: ⟨t, g_m⟩ for every block and parameter tensor, ``(units, k)``; empty where they are not known.
            grams: ⟨g_l, g_m⟩ for every block and parameter tensor, ``(units, k, k)``.
            guesses: the directions themselves, ``(units, k, features)``, for their dimension.
            guess: turns them into coefficients.

        Returns:
            For every block and parameter tensor, ``(units, k)``.
        """
        sizes = [len(gram) for block in grams for gram in block]
        dimensions = [g.shape[2] for block in guesses for g in block]
        gram = torch.cat([gram for block in grams for gram in block])
        product = torch.cat([product for block in products for product in block]) if products else None
        if self.units.joins_tensors:
            gram = gram.sum(0, keepdim=True)
            product = None if product is None else product.sum(0, keepdim=True)
            dimensions = [sum(dimensions)] * len(dimensions)
        found = guess.coefficients(product, gram, partial(self.factors, here, guess))
        coefficients = map(guess.stretched, found.expand(sum(sizes), -1).split(sizes), dimensions)
        return [[next(coefficients) for _ in block] for block in grams]

    @property
    def in_one_run(self) -> bool:
        """See ``Perturbation``."""
        return not self.units.dimensions

    def moves(self, here: BlockPass, guesses: Sequence[Tensor], guess: Guess) -> list[dict[str, Tensor]]:
        """See ``Perturbation``."""
        tensors = list(zip(here.names, here.parameters, guesses))
        return [
            {name: g[0, m].view_as(parameter) for name, parameter, g in unit}
            for unit in ([tensors] if self.units.joins_tensors else [[tensor] for tensor in tensors])
            for m in range(guess.count(here.block))
        ]

    def from_sums(
        self,
        passes: Sequence[BlockPass],
        guesses: Sequence[Sequence[Tensor]],
        sums: Sequence[Tensor] | None,
        guess: Guess,
    ) -> list[list[Tensor]]:
        """See ``Perturbation``."""
        products = []
        for tensors, summed in zip(guesses, sums or []):
            known = list(summed.view(-1, 1, tensors[0].shape[1]))
            # Where one coefficient stands for several tensors, the first has the sum over all.
            products.append(known + [torch.zeros_like(known[0])] * (len(tensors) - len(known)))
        grams = [[linalg.gram(g) for g in tensors] for tensors in guesses]
        coefficients = self._coefficients(passes[0], products, grams, guesses, guess)
        lists = (g if isinstance(g, list) else list(g) for g in guesses)  # others are drawn again, block by block
        return [_combine(here, c, g) for here, c, g in zip(passes, coefficients, lists)]

    def estimate_forward(self, here: BlockPass, derivative: BlockDerivative, guess: Guess) -> list[Tensor]:
        """See ``Perturbation``; for a coefficient for each filter, with one derivative each."""
        guesses, products = self.guesses(here, guess), []
        moving = zip(here.names, here.parameters, guesses) if self.uses_target(guess) else ()
        for name, parameter, g in moving:
            rows = g.flatten(0, 1)  # (units * k, features)
            parts = []
            for index in torch.arange(len(rows), device=g.device).split(TANGENTS):
                moved = g.new_zeros(len(index), len(g), g.shape[2])  # all but one unit of each stay where they are
                moved[torch.arange(len(index), device=g.device), index // g.shape[1]] = rows[index]
                parts.append(derivative(here.jvp({name: moved.view(-1, *parameter.shape)})).sum(1))
            products.append(torch.cat(parts).view(-1, g.shape[1]))
        products = here.network.batch.sum(products)
        grams = [linalg.gram(g) for g in guesses]
        coefficients = self._coefficients(here, [products] if products else [], [grams], [guesses], guess)[0]
        return _combine(here, coefficients, guesses)

    def _products_by_layer(self, here: BlockPass, target: TargetGradient, guesses: list[Tensor]) -> list[Tensor]:
        """⟨t, g⟩ of each parameter tensor and its only direction, ``(units, 1)``, from layers where possible."""
        products = []
        for parameter, t, g in zip(here.parameters, target.inside, guesses):
            call = here.weight_calls.get(parameter)
            if call is not None:
                g = weight_output(call, g.view_as(parameter))  # (batch, ...), an output of the layer
                t, g = (x.movedim(call.channel, 0) if self.units.dimensions else x for x in (t, g))
            units = len(g) if self.units.dimensions else 1
            products.append(linalg.products(t.reshape(units, -1), g.reshape(units, 1, -1)))
        return products


def _combine(here: BlockPass, coefficients: Sequence[Tensor], guesses: list[Tensor]) -> list[Tensor]:
    """The sum of c_m g_m for each parameter, from ``(units, k)`` and ``(units, k, features)``, which are let go of."""
    gradients = []
    for parameter, c in zip(here.parameters, coefficients):
        gradients.append(linalg.combine(c, guesses.pop(0)).view(parameter.shape).to(parameter.dtype))
    return gradients
