"""No guess: the target itself."""

from typing import Any

from fglight.estimators.guesses.base import Guess
from fglight.estimators.spaces.everything import Everything


class ExactGuess(Guess):
    """The target itself: no projection takes place, or one on the space of everything."""

    projects = False

    def space(self, chosen: Any) -> Everything:
        """See ``Guess``."""
        return Everything()
