"""No guess: the target itself."""

from fglight.estimators.guesses.local import LocalGuess


class ExactGuess(LocalGuess):
    """The target itself: no projection takes place, ``Unprojected`` hands the target on."""

    uses_auxiliaries = False
