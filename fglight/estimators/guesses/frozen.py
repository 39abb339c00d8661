"""No guess and no estimate: the control that any estimator should beat."""

from torch import Tensor

from fglight.estimators.guesses.base import Guess
from fglight.estimators.passes import BlockPass


class FrozenGuess(Guess):
    """Leaves blocks 0..J-2 as they were drawn and trains the last one alone, on what random features there are.

    Their running statistics move as ever, and auxiliary networks train where the target uses them or with
    ``probe=true``.
    """

    projects = False
    trains_blocks = False

    def activity(self, here: BlockPass) -> Tensor:
        """See ``Guess``; never asked for."""
        raise NotImplementedError("a frozen guess has no direction: nothing is estimated")
