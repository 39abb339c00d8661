"""The space of everything, in which the estimate is the target, and the space of nothing, in which there is none."""

from collections.abc import Iterable, Sequence

from torch import Tensor, nn

from fglight.autodiff.passes import BlockPass
from fglight.estimators.guesses.base import Guess
from fglight.estimators.spaces.base import Perturbation
from fglight.estimators.spaces.parts import Part, Targets, WeightPart


class Everything(Perturbation):
    """All unit vectors are directions: products with them are the target's entries, and the estimate the target."""

    def directions(self, block_pass: BlockPass, guess: Guess, *, cosine: bool = False) -> list[WeightPart]:
        """See ``Perturbation``."""
        return [_UnitVectors(block_pass, parameter) for parameter in block_pass.parameters]

    def uses_target(self, guess: Guess) -> bool:
        """See ``Perturbation``."""
        return True

    def coefficients(
        self,
        guess: Guess,
        parts: Iterable[Part],
        products: Sequence[Tensor] | None,
        targets: Sequence[Tensor] | None = None,
    ) -> list[Tensor]:
        """See ``Perturbation``: the products, as in every orthonormal basis."""
        return list(products or ())


class Nothing(Perturbation):
    """Blocks 0..J-2 stay as they are."""

    trains = False

    def directions(self, block_pass: BlockPass, guess: Guess, *, cosine: bool = False) -> list[WeightPart]:
        """See ``Perturbation``: none."""
        return []


class _UnitVectors(WeightPart):
    """Those of a parameter, which nobody writes out."""

    def __init__(self, block_pass: BlockPass, parameter: nn.Parameter) -> None:
        self.block_pass, self.parameter, self.point = block_pass, parameter, parameter

    def products(self, targets: Targets) -> Tensor:
        """See ``Part``: the target."""
        return targets[self.parameter]

    def pull_back(self, c: Tensor) -> dict[nn.Parameter, Tensor]:
        """See ``Part``."""
        return {self.parameter: c}
