"""Activity perturbation: the projection takes place in the space of a block's output."""

from typing import ClassVar

import torch
from torch import Tensor

from fglight.estimators import linalg
from fglight.estimators.duals import TANGENTS
from fglight.estimators.guesses.base import Guess
from fglight.estimators.passes import BlockPass
from fglight.estimators.perturbations.base import Perturbation
from fglight.estimators.perturbations.estimate import BlockDerivative, Estimate, TargetGradient
from fglight.estimators.units import Granularity


class ActivityPerturbation(Perturbation):
    """Coefficients in the space of h_j, then one vector-Jacobian product of the block (Eq. 5).

    One coefficient stands for a ``sample``, or for a ``channel`` of a sample (its dimension 1).
    """

    granularities: ClassVar = {"sample": Granularity(dimensions=1), "channel": Granularity(dimensions=2)}
    in_parameters = False

    def draws_early(self, guess: Guess) -> bool:
        """See ``Perturbation``."""
        return guess.drawn and not guess.needs_next_block and not guess.needs_error

    def directions(self, here: BlockPass, guess: Guess) -> Tensor:
        """See ``Perturbation``: ``(k, batch, ...)``."""
        if here.directions is None:
            return guess.activity(here)
        directions, here.directions = here.directions, None
        return directions

    def estimate(self, here: BlockPass, target: TargetGradient | None, guess: Guess, *, cosine: bool) -> Estimate:
        """See ``Perturbation``; the cosine is the mean over samples."""
        guesses = self.directions(here, guess)  # (k, batch, ...)
        directions = self.units.cut(guesses)  # (units, k, features)
        gram, t, products = linalg.gram(directions), None, None
        if target is not None:
            t = self.units.cut(target.output.unsqueeze(0)).squeeze(1)  # (units, features)
            products = linalg.products(t, directions)
        coefficients = self._coefficients(here, products, gram, guess)
        similarity = self._cosine(here, t, products, gram, coefficients) if cosine else None
        estimate = self.project(here, t, guesses, coefficients)
        if target is not None:
            target.release()
        del guesses, directions, t  # each as large as the estimate
        return Estimate(_to_parameters(here, estimate), similarity)

    def project(self, here: BlockPass, target: Tensor | None, guesses: Tensor, coefficients: Tensor) -> Tensor:
        """The estimate of the target in the space of h_j.

        Args:
            here: the block.
            target: ``(units, features)``; None where it is not needed.
            guesses: ``(k, batch, ...)``.
            coefficients: ``(units, k)``.

        Returns:
            The sum of c_m g_m in each unit, in h_j's shape.
        """
        scaled = self.units.spread(coefficients, guesses) * guesses
        return scaled[0] if len(scaled) == 1 else scaled.sum(0)

    def estimate_forward(self, here: BlockPass, derivative: BlockDerivative, guess: Guess) -> list[Tensor]:
        """See ``Perturbation``; with all samples moving along their own directions at once."""
        guesses, products = guess.activity(here), None  # (k, batch, ...)
        if self.uses_target(guess):
            channels = guesses.shape[2 : 1 + self.units.dimensions].numel()
            masks = torch.eye(channels, dtype=guesses.dtype, device=guesses.device)
            shape = [1, channels, *[1] * guesses.dim()][: guesses.dim() - 1]
            masks = masks.view(channels, *shape)  # what moves by itself
            rows = [
                torch.cat([derivative(mask * tangent) for mask in masks.split(TANGENTS)]) for tangent in guesses
            ]  # k of (channels, batch)
            products = torch.stack(rows).mT.flatten(1).mT  # (units, k)
        coefficients = self._coefficients(here, products, linalg.gram(self.units.cut(guesses)), guess)
        return _to_parameters(here, self.project(here, None, guesses, coefficients))

    def _coefficients(self, here: BlockPass, products: Tensor | None, gram: Tensor, guess: Guess) -> Tensor:
        """The coefficients, ``(units, k)``; see ``Guess.coefficients``."""

        def scaled(product: Tensor | None, square: Tensor) -> Tensor:
            factors = self.factors(here, guess, product, square)
            by_sample = factors.view(len(here.output), -1, factors.shape[-1])
            return (by_sample * self.coefficient_of(guess).scale(by_sample, here.network.batch)).view_as(factors)

        return guess.stretched(guess.coefficients(products, gram, scaled), here.output.numel() // len(gram))

    def _cosine(self, here: BlockPass, target: Tensor, products: Tensor, gram: Tensor, coefficients: Tensor) -> Tensor:
        by_sample = (len(here.output), -1)
        squares = linalg.products(target, target.unsqueeze(1)).view(by_sample).sum(1)
        products, gram, coefficients = (x.view(*by_sample, *x.shape[1:]) for x in (products, gram, coefficients))
        return here.network.batch.mean([linalg.cosine(products, gram, coefficients, squares)])[0]


class ActivitySpanPerturbation(ActivityPerturbation):
    """Each sample's target projected orthogonally on the span of the whole batch's guesses (Sec. 4.4, Table 6).

    Of several directions, all are in the span, however the guess combines a sample's own.
    """

    granularities: ClassVar = {"sample": Granularity(dimensions=1)}
    spans = True

    def project(self, here: BlockPass, target: Tensor | None, guesses: Tensor, coefficients: Tensor) -> Tensor:
        """See ``ActivityPerturbation``; the coefficients of the single guesses play no role."""
        directions = _rows_of_batch(here, guesses)
        return linalg.project_on_span(target, directions).view(here.output.shape)

    def estimate_forward(self, here: BlockPass, derivative: BlockDerivative, guess: Guess) -> list[Tensor]:
        """See ``Perturbation``; with all samples moving along the same direction, each of the whole batch's in turn."""
        own = guess.activity(here)  # (k, batch, ...)
        basis = linalg.unit_rows(_rows_of_batch(here, own))  # (k * whole batch, features)
        moves = basis.to(own.dtype).view(-1, 1, *own.shape[2:])
        products = torch.cat([derivative(move.expand(-1, *own.shape[1:])) for move in moves.split(TANGENTS)])
        return _to_parameters(here, linalg.combine_in_span(products.mT, basis).view(here.output.shape))


def _rows_of_batch(here: BlockPass, guesses: Tensor) -> Tensor:
    """The guesses ``(k, batch, ...)`` of the whole batch, on all processes, ``(k * whole batch, features)``."""
    return here.network.batch.gather(guesses.flatten(0, 1).unsqueeze(-1).flatten(1))


def _to_parameters(here: BlockPass, estimate: Tensor) -> list[Tensor]:
    """From the space of h_j, in its shape, to that of theta_j; the block's graph is freed."""
    return here.to_parameters(estimate.to(here.output.dtype), keep=False)
