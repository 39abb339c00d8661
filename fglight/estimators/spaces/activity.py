"""Activity perturbation: the projection takes place in the space of a block's output."""

from typing import ClassVar

from torch import Tensor

from fglight.autodiff.passes import BlockPass
from fglight.estimators.guesses.base import Guess
from fglight.estimators.spaces.base import Perturbation
from fglight.estimators.spaces.parts import ActivityPart, Granularity, Part, SpanPart


class ActivityPerturbation(Perturbation):
    """Coefficients in the space of h_j, then one vector-Jacobian product of the block (Eq. 5).

    One coefficient stands for a ``sample``, or for a ``channel`` of a sample (its dimension 1).
    """

    granularities: ClassVar = {"sample": Granularity(), "channel": Granularity(dimensions=1)}

    def directions(self, block_pass: BlockPass, guess: Guess, *, cosine: bool = False) -> list[ActivityPart]:
        """See ``Perturbation``."""
        pulled = [guess.directions(block_pass)] if guess.pulled else None
        (directions,) = guess.in_space(block_pass, pulled, [block_pass.output.detach()], by_sample=True)
        return [ActivityPart(block_pass, None, directions, self.units)]


class ActivitySpanPerturbation(ActivityPerturbation):
    """Each sample's target projected orthogonally on the span of the whole batch's guesses (Sec. 4.4, Table 6).

    Of several directions, all are in the span, however the guess combines a sample's own.
    """

    granularities: ClassVar = {"sample": Granularity()}
    spans = True

    def directions(self, block_pass: BlockPass, guess: Guess, *, cosine: bool = False) -> list[ActivityPart]:
        """See ``Perturbation``."""
        return [SpanPart(part) for part in super().directions(block_pass, guess)]

    def cosine(self, guess: Guess, part: Part, products: Tensor, c: Tensor, squares: Tensor) -> Tensor:
        """See ``Perturbation``: of a sample's own guess."""
        assert isinstance(part, SpanPart)
        own = ActivityPerturbation(coefficient=self.coefficient)
        (c,) = own.coefficients(guess, [part.own], [part.own_products])
        return own.cosine(guess, part.own, part.own_products, c, squares)

    def _how(self, guess: Guess) -> str:
        """See ``Perturbation``."""
        return "span"
