"""No guess: the target itself."""

from torch import Tensor

from fglight.estimators.guesses.base import Guess
from fglight.estimators.passes import BlockPass


class ExactGuess(Guess):
    """The target itself: no projection takes place, ``Unprojected`` hands the target on."""

    projects = False

    def activity(self, here: BlockPass) -> Tensor:
        """See ``Guess``; never asked for."""
        raise NotImplementedError("an exact guess has no direction: the estimate is the target")
