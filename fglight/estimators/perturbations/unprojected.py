"""No projection at all."""

from collections.abc import Sequence

from torch import Tensor

from fglight.estimators.guesses.base import Guess
from fglight.estimators.layers import LayerCall
from fglight.estimators.passes import BlockPass
from fglight.estimators.perturbations.base import Perturbation
from fglight.estimators.perturbations.estimate import Estimate, TargetGradient


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
