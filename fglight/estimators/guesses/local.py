"""The guess from a block's local loss."""

from torch import Tensor

from fglight.estimators.guesses.base import Guess
from fglight.estimators.passes import BlockPass


class LocalGuess(Guess):
    """The gradient of the block's own local loss L_j."""

    uses_auxiliaries = True

    def activity(self, here: BlockPass) -> Tensor:
        """See ``Guess``."""
        return here.local_gradient.unsqueeze(0)
