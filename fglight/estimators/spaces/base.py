"""What every space is: it gives the directions of each tensor, and shares coefficients out among them."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from fglight.autodiff.linalg import cosine
from fglight.autodiff.passes import BlockPass
from fglight.estimators.coefficients import COEFFICIENTS, Coefficient, Function, Units, read_coefficient
from fglight.estimators.combine import combine
from fglight.estimators.guesses.base import Guess
from fglight.estimators.spaces.parts import Granularity, Part


class Perturbation(ABC):
    """The space in which targets are projected on guesses.

    Args:
        granularity: what one coefficient stands for; None takes the first of ``granularities``, which is the paper's.
        coefficient: the factor of a direction, one of ``COEFFICIENTS`` as in ``constant:0.25``, or of your own; None:
            the guess's own.

    Attributes:
        granularities: what it can be.
        in_parameters: whether it is the space of theta_j, not of h_j.
        by_sample: whether every sample has coefficients of its own, so that the estimate is a sum over samples.
        spans: whether targets are projected on directions of several samples at once.
        trains: whether blocks 0..J-2 get a gradient at all.

    Raises:
        ValueError: for any other granularity or coefficient.
    """

    granularities: ClassVar[Mapping[str, Granularity]] = {"sample": Granularity()}
    in_parameters = False
    by_sample = True
    spans = False
    trains = True

    def __init__(self, granularity: str | None = None, coefficient: str | Coefficient | None = None) -> None:
        self.granularity = granularity or next(iter(self.granularities))
        if self.granularity not in self.granularities:
            raise ValueError(
                f"perturb.granularity must be one of {', '.join(self.granularities)} for {type(self).__name__}, "
                f"got {granularity}"
            )
        self.units = self.granularities[self.granularity]
        self.coefficient = read_coefficient(coefficient) if isinstance(coefficient, str) else coefficient
        if not isinstance(self.coefficient, Coefficient | None):
            raise ValueError(
                f"perturb.coefficient must be null, a name, or a Coefficient by its _target_, got {coefficient}"
            )

    @abstractmethod
    def directions(self, block_pass: BlockPass, guess: Guess, *, cosine: bool = False) -> Iterable[Part]:
        """The directions of one block.

        Args:
            block_pass: the block, which has run where ``guess.pulled`` or the space is that of h_j; its graph stays.
            guess: where they come from.
            cosine: whether |t|² is wanted, too, as the cosine similarity of guess and target needs it.

        Returns:
            A part for each tensor of the space.
        """

    def slow(self, block_pass: BlockPass, parameter: nn.Parameter, guess: Guess) -> str:
        """Why a parameter has no fast path, and what that costs.

        Args:
            block_pass: its block, which has run with ``record_calls``.
            parameter: one of ``block_pass.parameters``.
            guess: where the directions come from.

        Returns:
            The reason in words; empty where it has one.
        """
        return ""

    @property
    def carries(self) -> bool:
        """Whether a coefficient stands for so much that a forward pass carries the tangents of all of them."""
        return self.in_parameters and not self.by_sample and not self.units.dimensions

    def coefficient_of(self, guess: Guess) -> Coefficient:
        """The coefficient that is used with a guess."""
        chosen = self.coefficient or guess.coefficient
        return chosen if isinstance(chosen, Coefficient) else Function(chosen)

    def uses_target(self, guess: Guess) -> bool:
        """Whether this step's estimate depends on its target at all."""
        coefficient = self.coefficient_of(guess)
        return self.spans or guess.combine in ("span", "max") or (coefficient.uses_products and coefficient.due)

    def coefficients(
        self,
        guess: Guess,
        parts: Iterable[Part],
        products: Sequence[Tensor] | None,
        targets: Sequence[Tensor] | None = None,
    ) -> list[Tensor]:
        """The coefficients of parts that share them.

        Args:
            guess: where the directions come from.
            parts: of one block, or of all where ``units.joins_blocks``.
            products: ⟨t, g_m⟩ of each part, or their sum over all parts where they are one unit; None where no
                coefficient needs them.
            targets: |t|² of each part, ``(samples, units)``, where they are known.

        Returns:
            For each part, ``(samples, units, k)``.
        """
        grams, features = [], []
        for part in parts:
            grams.append(part.gram())
            features.append(part.features)
        sizes = [gram.shape[1] for gram in grams]
        gram, product, target = (torch.cat(list(rows), dim=1) if rows else None for rows in (grams, products, targets))
        if self.units.joins_tensors:
            gram, product, target = (x if x is None else x.sum(1, keepdim=True) for x in (gram, product, target))
            features = [sum(features)] * len(features)
        block_pass = part.block_pass

        def factors(product: Tensor | None, squares: Tensor) -> Tensor:
            return self._factors(guess, Units(product, squares, target, block_pass.index, block_pass.network.batch))

        assert gram is not None
        c = combine(self._how(guess), factors, product, gram)
        shared = c.expand(-1, sum(sizes), -1).split(sizes, dim=1)
        return [own * guess.length_correction(c.shape[-1], dimension) for own, dimension in zip(shared, features)]

    def cosine(self, guess: Guess, part: Part, products: Tensor, c: Tensor, squares: Tensor) -> Tensor:
        """The cosine similarity of guess and target, ``(samples,)``, of |t|² by units; see ``linalg.cosine``."""
        return cosine(products, part.gram(), c, squares.sum(1))

    def _how(self, guess: Guess) -> str:
        """What becomes of several directions; see ``combine``."""
        return guess.combine

    def _factors(self, guess: Guess, units: Units) -> Tensor:
        """The factors of directions; see ``Coefficient``.

        Of those that are drawn, factors of samples are each process's own, and others the same in all.
        """
        coefficient = self.coefficient_of(guess)
        if coefficient.random and self.by_sample:
            return units.batch.rows(
                lambda products, squares: coefficient.factors(replace(units, products=products, squares=squares)),
                units.products,
                units.squares,
            )
        factors = coefficient.factors(units)
        return units.batch.first(factors) if coefficient.random and guess.randomness == "samples" else factors

    def check(self, guess: Guess) -> None:
        """Refuse what means nothing with it, of a guess or a coefficient.

        Raises:
            ValueError: in one line.
        """
        guess.check(self)
        spans = self._how(guess) == "span"

        def fits(coefficient: Any) -> bool:
            return coefficient.projects if spans else coefficient.by_sample in (None, self.by_sample)

        chosen = self.coefficient_of(guess)
        if not fits(chosen) and not (spans and self.coefficient is None):
            where = "guess.combine=span" if spans and not self.spans else type(self).__name__
            raise ValueError(
                f"perturb.coefficient must be one of {', '.join(n for n, kind in COEFFICIENTS.items() if fits(kind))} "
                f"with {where}, got {chosen.name}"
            )
