"""The guess from a block's local loss."""

from torch import Tensor

from fglight.estimators.guesses.base import Guess, stack
from fglight.estimators.passes import BlockPass


class LocalGuess(Guess):
    """The gradient of the block's own local loss L_j."""

    uses_auxiliaries = True

    def activity(self, here: BlockPass) -> Tensor:
        """See ``Guess``."""
        return here.local_gradient.unsqueeze(0)

    def weight(self, here: BlockPass) -> list[Tensor]:
        """See ``Guess``; the block's graph is freed."""
        cotangents = self.activity(here)
        by_direction = [
            here.to_parameters(cotangent, keep=m + 1 < len(cotangents)) for m, cotangent in enumerate(cotangents)
        ]
        return [stack(tensors) for tensors in zip(*by_direction)]
