"""Perturbations (Sec. 3.3): the space in which a target is projected on a guess."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fglight.estimators import linalg
from fglight.estimators.duals import pushforward, still
from fglight.estimators.guesses import Guess, stack
from fglight.estimators.layers import LayerCall, record_calls, weight_output
from fglight.estimators.passes import BlockPass
from fglight.estimators.targets import TargetGradient

BlockTarget = tuple[BlockPass, TargetGradient]


@dataclass
class Estimate:
    """The estimate of one block's gradient.

    Attributes:
        gradients: a tensor for each trained parameter of the body.
        cosine: mean cosine similarity of guess and target, a scalar; None where it was not asked for.
    """

    gradients: list[Tensor]
    cosine: Tensor | None = None


class Perturbation(ABC):
    """Turns the targets and guesses of all blocks into estimates of their gradients.

    Args:
        granularity: what one coefficient stands for; None takes the first of ``granularities``, which is the paper's.

    Attributes:
        granularities: what it can be.
        by_sample: whether every sample has coefficients of its own, so that the estimate is a sum over samples.
        several_directions: whether it can project on several directions of a guess.
        inside_block: whether guesses are taken inside a block, on its graph.
        forward_granularities: the granularities that forward mode has, those with few directional derivatives.

    Raises:
        ValueError: for any other granularity.
    """

    granularities: tuple[str, ...] = ("sample",)
    by_sample = True
    several_directions = False
    forward_granularities: tuple[str, ...] = ()
    inside_block = True

    def __init__(self, granularity: str | None = None) -> None:
        self.granularity = granularity or self.granularities[0]
        if self.granularity not in self.granularities:
            raise ValueError(
                f"perturb.granularity={granularity} means nothing for {type(self).__name__}: "
                f"accepted is {', '.join(self.granularities)}"
            )

    def recording(self, body: nn.Module) -> AbstractContextManager[list[LayerCall]]:
        """A context in which ``body`` runs once; its value is what the perturbation wants to know of its layers."""
        return nullcontext([])

    def points(self, here: BlockPass, guess: Guess, *, cosine: bool) -> Sequence[Tensor | LayerCall]:
        """Where inside a block its target is needed, besides its output."""
        return []

    def reuses_graph(self, guess: Guess) -> bool:
        """Whether a block's graph is needed once its target is known."""
        return True

    def __call__(
        self, targets: Iterable[BlockTarget], guess: Guess, *, cosine: bool = False
    ) -> Iterator[tuple[BlockPass, Estimate]]:
        """The estimates of blocks 0..J-2, in any order; those without parameters are left out.

        Args:
            targets: blocks J-2 down to 0 with their targets.
            guess: where the guesses come from.
            cosine: whether the cosine similarity of guess and target is wanted too.
        """
        for here, target in in_drawing_order(targets, guess):
            estimate = self.estimate(here, target, guess, cosine=cosine)
            target.release()
            yield here, estimate

    @abstractmethod
    def estimate(self, here: BlockPass, target: TargetGradient, guess: Guess, *, cosine: bool) -> Estimate:
        """The estimate of one block; arguments as in ``__call__``."""

    def tangents(self, here: BlockPass, guess: Guess) -> Tensor:
        """Forward mode: how a block's output moves along its directions, ``(count, batch, ...)``."""
        raise NotImplementedError

    def from_products(self, here: BlockPass, guess: Guess, products: Tensor) -> list[Tensor]:
        """Forward mode, for estimates that are sums over samples: the estimate of a block that runs once more.

        Args:
            here: the block.
            guess: gives the same directions again.
            products: each sample's inner product of target and direction, ``(count, batch)`` as ``tangents`` has them.

        Returns:
            A tensor for each of ``here.parameters``.
        """
        raise NotImplementedError


def in_drawing_order(targets: Iterable[BlockTarget], guess: Guess) -> Iterable[BlockTarget]:
    """The targets of blocks with parameters, from block 0 on for guesses that are drawn, else as they come."""
    targets = (target for target in targets if target[0].parameters)
    return reversed(list(targets)) if guess.drawn else targets


class Unprojected(Perturbation):
    """No projection: the estimate is the target. What ``guess=exact`` uses, whatever the perturbation."""

    def points(self, here: BlockPass, guess: Guess, *, cosine: bool) -> Sequence[Tensor | LayerCall]:
        """See ``Perturbation``."""
        return here.parameters

    def reuses_graph(self, guess: Guess) -> bool:
        """See ``Perturbation``."""
        return False

    def estimate(self, here: BlockPass, target: TargetGradient, guess: Guess, *, cosine: bool) -> Estimate:
        """See ``Perturbation``; a cosine similarity of one would be no news and is left out."""
        return Estimate(list(target.inside))


class ActivityPerturbation(Perturbation):
    """Coefficients in the space of h_j, then one vector-Jacobian product of the block (Eq. 5).

    One coefficient stands for a ``sample``, or for a ``channel`` of a sample (its dimension 1).
    """

    granularities = ("sample", "channel")
    several_directions = True
    forward_granularities = ("sample",)
    inside_block = False

    def estimate(self, here: BlockPass, target: TargetGradient, guess: Guess, *, cosine: bool) -> Estimate:
        """See ``Perturbation``; the cosine is the mean over samples."""
        directions = self.units(guess.activity(here))  # (units, k, features)
        t = self.units(target.output.unsqueeze(0)).squeeze(1)  # (units, features)
        products, gram = linalg.products(t, directions), linalg.gram(directions)
        coefficients = guess.coefficients(products, gram)
        similarity = self._cosine(here, t, products, gram, coefficients) if cosine else None
        return Estimate(self._to_parameters(here, self.project(here, t, directions, coefficients)), similarity)

    def units(self, tensors: Tensor) -> Tensor:
        """Cut activities ``(k, batch, ...)`` into what one coefficient stands for: ``(units, k, features)``."""
        start = 2 if self.granularity == "sample" else 3
        return tensors.reshape(len(tensors), tensors.shape[1:start].numel(), -1).transpose(0, 1)

    def project(self, here: BlockPass, target: Tensor, directions: Tensor, coefficients: Tensor) -> Tensor:
        """The estimate of the target in the space of h_j.

        Args:
            here: the block.
            target: ``(units, features)``.
            directions: ``(units, k, features)``.
            coefficients: ``(units, k)``.

        Returns:
            The sum of c_m g_m in each unit, ``(units, features)``.
        """
        return linalg.combine(coefficients, directions)

    def tangents(self, here: BlockPass, guess: Guess) -> Tensor:
        """See ``Perturbation``: the directions themselves, all samples at once."""
        return guess.activity(here)

    def from_products(self, here: BlockPass, guess: Guess, products: Tensor) -> list[Tensor]:
        """See ``Perturbation``."""
        directions = self.units(guess.activity(here))  # (batch, k, features)
        coefficients = guess.coefficients(products.mT, linalg.gram(directions))
        return self._to_parameters(here, linalg.combine(coefficients, directions))

    def _to_parameters(self, here: BlockPass, estimate: Tensor) -> list[Tensor]:
        """From the space of h_j, ``(units, features)``, to that of theta_j; the block's graph is freed."""
        return here.to_parameters(estimate.view(here.output.shape).to(here.output.dtype), keep=False)

    def _cosine(self, here: BlockPass, target: Tensor, products: Tensor, gram: Tensor, coefficients: Tensor) -> Tensor:
        by_sample = (len(here.output), -1)
        squares = linalg.products(target, target.unsqueeze(1)).view(by_sample).sum(1)
        units = (x.view(*by_sample, *x.shape[1:]) for x in (products, gram, coefficients))
        return here.batch.mean([linalg.cosine(*units, squares).mean()])[0]


class ActivitySpanPerturbation(ActivityPerturbation):
    """Each sample's target projected orthogonally on the span of the whole batch's guesses (Sec. 4.4, Table 6)."""

    granularities = ("sample",)
    several_directions = False
    forward_granularities = ()

    def project(self, here: BlockPass, target: Tensor, directions: Tensor, coefficients: Tensor) -> Tensor:
        """See ``ActivityPerturbation``; the coefficients of the single guesses play no role."""
        return linalg.project_on_span(target, here.batch.gather(directions.squeeze(1)))


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
    forward_granularities = ("tensor", "block", "network")

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

    def tangents(self, here: BlockPass, guess: Guess, carried: Tensor | None = None) -> Tensor:
        """See ``Perturbation``; the directions are kept in ``here.directions``.

        Args:
            here: the block; where it has not run yet, it does so now.
            guess: where the directions come from.
            carried: tangents of the block's input that go with its own, ``(k, batch, ...)``; for a coefficient that
                stands for the whole network.

        Returns:
            ``(coefficients * k, batch, ...)``.
        """
        here.directions = self.directions(here, guess)
        names = [name for name, parameter in here.block.body.named_parameters() if parameter.requires_grad]
        groups = [[i] for i in range(len(names))] if self.granularity == "tensor" else [list(range(len(names)))]
        tangents = []
        for group in groups:
            for m in range(guess.directions):
                named = {names[i]: here.directions[i][0, m].view_as(here.parameters[i]) for i in group}
                x_tangent = None if carried is None else carried[m]
                with nullcontext() if here.output is None else still(here.block.body):
                    output, tangent = pushforward(here.block.body, here.input, x_tangent, named)
                here.output = output if here.output is None else here.output
                tangents.append(tangent)
        return stack(tangents)

    def from_sums(self, passes: Sequence[BlockPass], guess: Guess, sums: Sequence[Tensor]) -> Iterator[list[Tensor]]:
        """Forward mode: the estimates of several blocks, whose directions are in ``directions``.

        Args:
            passes: the blocks; all of them where one coefficient stands for the network, else one.
            guess: turns inner products into coefficients.
            sums: inner products of target and directions for each of a block's coefficients, ``(coefficients * k,)``.
        """
        products = []
        for here, known in zip(passes, sums):
            known = list(known.view(-1, 1, guess.directions))
            # Where one coefficient stands for several tensors, the first has the sum over all.
            products.append(known + [torch.zeros_like(known[0])] * (len(here.directions) - len(known)))
        grams = [[linalg.gram(g) for g in here.directions] for here in passes]
        for here, coefficients in zip(passes, self.coefficients(products, grams, guess)):
            yield combine(here.parameters, coefficients, here.directions)
            here.directions.clear()

    def _products_by_layer(self, here: BlockPass, target: TargetGradient, directions: list[Tensor]) -> list[Tensor]:
        """<t, g> of each parameter tensor and its only direction, ``(units, 1)``, from layers where possible."""
        products = []
        for parameter, t, g in zip(here.parameters, target.inside, directions):
            call = here.weight_calls.get(parameter)
            if call is not None:
                g = weight_output(call, g.view_as(parameter))  # (batch, ...), an output of the layer
                channel = t.dim() - 1 if isinstance(call.layer, nn.Linear) else 1
                t, g = (x.movedim(channel, 0) if self.granularity == "filter" else x for x in (t, g))
            units = len(g) if self.granularity == "filter" else 1
            products.append(linalg.products(t.reshape(units, -1), g.reshape(units, 1, -1)))
        return products


def combine(parameters: Sequence[Tensor], coefficients: Sequence[Tensor], directions: Sequence[Tensor]) -> list[Tensor]:
    """The sum of c_m g_m for each parameter, from ``(units, k)`` and ``(units, k, features)``."""
    return [
        linalg.combine(c, g).view(parameter.shape).to(parameter.dtype)
        for parameter, c, g in zip(parameters, coefficients, directions)
    ]
