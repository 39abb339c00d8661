"""Weight perturbation: the projection takes place in the space of a block's parameters."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn

from fglight.estimators import linalg
from fglight.estimators.duals import TANGENTS, pushforward, pushforward_all
from fglight.estimators.guesses.base import Guess, stack
from fglight.estimators.layers import LayerCall, record_calls, weight_output
from fglight.estimators.passes import BlockPass
from fglight.estimators.perturbations.base import (
    BlockDerivative,
    BlockEstimate,
    BlockTarget,
    Estimate,
    Perturbation,
    in_drawing_order,
)
from fglight.estimators.targets import TargetGradient


class WeightPerturbation(Perturbation):
    """The batch gradient with respect to theta_j projected on the guess in the same space (Eq. 4).

    One coefficient stands for a parameter ``tensor`` (as in the paper's code), a ``block`` (all of theta_j, Eq. 4 read
    literally), the whole ``network`` (Baydin et al. 2022), or as little as a ``filter``: an output channel of a
    convolution, a row of a linear layer's weight, an entry of a bias or scale.

    The target enters through its inner product with the guess alone, and so the gradients of convolution and linear
    weights are never computed: with cotangent d at the layer's output and guess g, <t, g> = <d, layer(x; g)>, a forward
    pass of the layer with the guess for a weight (its Jacobian-vector product). For several directions the target
    itself is the better way, and the cosine, which needs the norm of the target, takes it too.
    """

    granularities = ("tensor", "block", "network", "filter")
    by_sample = False
    several_directions = True

    def recording(self, body: nn.Module) -> AbstractContextManager[list[LayerCall]]:
        """Record what the layers take in while a block runs."""
        return record_calls(body)

    def points(self, here: BlockPass, guess: Guess, *, cosine: bool) -> Sequence[Tensor | LayerCall]:
        """See ``Perturbation``: parameters, or in their place the outputs of layers that they are the weights of."""
        if guess.directions > 1:
            return here.parameters
        # Estimates are the same to the last bit with and without cosine.
        return [here.weight_calls.get(p, p) for p in here.parameters] + (here.parameters if cosine else [])

    def reuses_graph(self, guess: Guess) -> bool:
        """See ``Perturbation``."""
        return guess.uses_auxiliaries

    def __call__(
        self, targets: Iterable[BlockTarget], guess: Guess, *, cosine: bool = False
    ) -> Iterator[tuple[BlockPass, Estimate]]:
        """See ``Perturbation``; only one coefficient for the network needs all blocks' guesses at once."""
        if self.granularity != "network":
            yield from super().__call__(targets, guess, cosine=cosine)
        elif group := list(in_drawing_order(targets, guess)):
            yield from zip([here for here, _ in group], self._estimate_jointly(group, guess, cosine=cosine))

    def estimate(self, here: BlockPass, target: TargetGradient, guess: Guess, *, cosine: bool) -> Estimate:
        """See ``Perturbation``; the cosine is the mean over parameter tensors."""
        return self._estimate_jointly([(here, target)], guess, cosine=cosine)[0]

    def _estimate_jointly(self, group: Sequence[BlockTarget], guess: Guess, *, cosine: bool) -> list[Estimate]:
        """The estimates of several blocks, which may share a coefficient."""
        directions = [self.directions(here, guess) for here, _ in group]
        products, squares = [], []
        for (here, target), d in zip(group, directions):
            exact = target.inside[-len(here.parameters) :]
            if guess.directions > 1:
                local = [linalg.products(self.units(t.unsqueeze(0))[:, 0], g) for t, g in zip(exact, d)]
            else:
                local = self._products_by_layer(here, target, d)
            products.append(here.batch.mean(local))
            if cosine:
                squares.append([linalg.gram(t.reshape(1, 1, -1)).sum() for t in here.batch.mean(exact)])
        grams = [[linalg.gram(g) for g in tensors] for tensors in directions]
        coefficients = self.coefficients(products, grams, guess)
        estimates = [
            Estimate(combine(here.parameters, c, d)) for (here, _), c, d in zip(group, coefficients, directions)
        ]
        for estimate, *tensors in zip(estimates, products, grams, coefficients, squares):
            estimate.cosine = torch.stack([linalg.cosine(*tensor) for tensor in zip(*tensors)]).mean()
        return estimates

    def directions(self, here: BlockPass, guess: Guess) -> list[Tensor]:
        """The guess for each parameter tensor, ``(units, k, features)``, the same in all processes."""
        directions = guess.weight(here)
        # A random one is drawn alike everywhere.
        return [self.units(g) for g in (here.batch.mean(directions) if guess.uses_auxiliaries else directions)]

    def units(self, tensors: Tensor) -> Tensor:
        """Cut ``(k, *shape)`` into what one coefficient stands for at most: ``(units, k, features)``."""
        units = tensors.shape[1] if self.granularity == "filter" and tensors.dim() > 1 else 1
        return tensors.reshape(len(tensors), units, -1).transpose(0, 1)

    def coefficients(self, products: list[list[Tensor]], grams: list[list[Tensor]], guess: Guess) -> list[list[Tensor]]:
        """The coefficients that belong together.

        Args:
            products: <t, g_m> for every block and parameter tensor, ``(units, k)``.
            grams: <g_l, g_m> for every block and parameter tensor, ``(units, k, k)``.
            guess: turns them into coefficients.

        Returns:
            As ``products``.
        """
        sizes = [len(product) for block in products for product in block]
        product = torch.cat([product for block in products for product in block])
        gram = torch.cat([gram for block in grams for gram in block])
        if self.granularity in ("block", "network"):
            shared = guess.coefficients(product.sum(0, keepdim=True), gram.sum(0, keepdim=True))
            coefficients = iter(shared.expand_as(product).split(sizes))
        else:
            coefficients = iter(guess.coefficients(product, gram).split(sizes))
        return [[next(coefficients) for _ in block] for block in products]

    @property
    def in_one_run(self) -> bool:
        """See ``Perturbation``."""
        return self.granularity != "filter"

    def tangents(
        self, here: BlockPass, directions: list[Tensor], guess: Guess, carried: Tensor | None = None
    ) -> Tensor:
        """Forward mode in one run: how a block's output moves along the directions of each of its coefficients.

        Args:
            here: the block; where it has not run yet, it does so now.
            directions: what ``directions`` gives.
            guess: where they came from.
            carried: tangents of the block's input that go with its own, ``(k, batch, ...)``; for a coefficient that
                stands for the whole network.

        Returns:
            ``(coefficients * k, batch, ...)``.
        """
        body, names = here.block.body, _names(here)
        groups = [[i] for i in range(len(names))] if self.granularity == "tensor" else [list(range(len(names)))]
        tangents = []
        for group in groups:
            for m in range(guess.directions):
                moved = {names[i]: directions[i][0, m].view_as(here.parameters[i]) for i in group}
                start = (body, here.input, None if carried is None else carried[m], moved)
                if here.output is None:
                    here.output, tangent = pushforward(*start)
                else:
                    with here.again():
                        tangent = pushforward(*start)[1]
                tangents.append(tangent)
        return stack(tangents)

    def from_sums(
        self, passes: Sequence[BlockPass], directions: Sequence[list[Tensor]], sums: Sequence[Tensor], guess: Guess
    ) -> Iterator[BlockEstimate]:
        """Forward mode in one run: the estimates of several blocks.

        Args:
            passes: the blocks; all of them where one coefficient stands for the network, else one.
            directions: of each block, as ``directions`` gave them.
            sums: inner products of target and directions for each of a block's coefficients, ``(coefficients * k,)``.
            guess: turns them into coefficients of the estimate.
        """
        products = []
        for tensors, known in zip(directions, sums):
            known = list(known.view(-1, 1, guess.directions))
            # Where one coefficient stands for several tensors, the first has the sum over all.
            products.append(known + [torch.zeros_like(known[0])] * (len(tensors) - len(known)))
        grams = [[linalg.gram(g) for g in tensors] for tensors in directions]
        for here, coefficients, tensors in zip(passes, self.coefficients(products, grams, guess), directions):
            yield here, combine(here.parameters, coefficients, tensors)

    def estimate_forward(self, here: BlockPass, derivative: BlockDerivative, guess: Guess) -> list[Tensor]:
        """See ``Perturbation``; for a coefficient for each filter, with one derivative each."""
        directions, products = self.directions(here, guess), []
        for name, parameter, d in zip(_names(here), here.parameters, directions):
            rows = d.flatten(0, 1)  # (units * k, features)
            parts = []
            for index in torch.arange(len(rows), device=d.device).split(TANGENTS):
                moved = d.new_zeros(len(index), len(d), d.shape[2])  # all but one unit of each stay where they are
                moved[torch.arange(len(index), device=d.device), index // guess.directions] = rows[index]
                moved = {name: moved.view(-1, *parameter.shape)}
                moved = pushforward_all(here.block.body, here.input, moved, here.again)[1]
                parts.append(derivative(moved).sum(1))
            products.append(torch.cat(parts).view(-1, guess.directions))
        products = here.batch.mean(products)
        grams = [linalg.gram(g) for g in directions]
        return combine(here.parameters, self.coefficients([products], [grams], guess)[0], directions)

    def _products_by_layer(self, here: BlockPass, target: TargetGradient, directions: list[Tensor]) -> list[Tensor]:
        """<t, g> of each parameter tensor and its only direction, ``(units, 1)``, from layers where possible."""
        products = []
        for parameter, t, g in zip(here.parameters, target.inside, directions):
            call = here.weight_calls.get(parameter)
            if call is not None:
                g = weight_output(call, g.view_as(parameter))  # (batch, ...), an output of the layer
                t, g = (x.movedim(call.channel, 0) if self.granularity == "filter" else x for x in (t, g))
            units = len(g) if self.granularity == "filter" else 1
            products.append(linalg.products(t.reshape(units, -1), g.reshape(units, 1, -1)))
        return products


def _names(here: BlockPass) -> list[str]:
    """Of ``here.parameters`` in the block's body."""
    return [name for name, parameter in here.block.body.named_parameters() if parameter.requires_grad]


def combine(parameters: Sequence[Tensor], coefficients: Sequence[Tensor], directions: Sequence[Tensor]) -> list[Tensor]:
    """The sum of c_m g_m for each parameter, from ``(units, k)`` and ``(units, k, features)``."""
    return [
        linalg.combine(c, g).view(parameter.shape).to(parameter.dtype)
        for parameter, c, g in zip(parameters, coefficients, directions)
    ]
