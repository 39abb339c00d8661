"""No guess and no estimate: the control that any estimator should beat."""

from typing import Any

from fglight.estimators.guesses.base import Guess
from fglight.estimators.spaces.everything import Nothing


class FrozenGuess(Guess):
    """Leaves blocks 0..J-2 as they were drawn and trains the last one alone, on what random features there are.

    Their running statistics move as ever, and auxiliary networks train where the target uses them or with
    ``probe=true``.
    """

    projects = False

    def space(self, chosen: Any) -> Nothing:
        """See ``Guess``."""
        return Nothing()
