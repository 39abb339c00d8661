"""The local guess with noise around it."""

from collections.abc import Sequence

import torch
from torch import Tensor

from fglight.autodiff.linalg import unit_rows
from fglight.autodiff.passes import BlockPass
from fglight.estimators.guesses.local import LocalGuess


class GuidedGuess(LocalGuess):
    """A random direction, elongated along the local guess g (Maheswaranathan et al. 2019, arXiv 1806.10230, Sec. 3).

    sqrt(alpha) xi / sqrt(n) + sqrt(1 - alpha) g / |g|, scaled to unit length, with xi standard normal and n the
    dimension. Before it is scaled, its second moment is Guided ES's covariance alpha/n I + (1 - alpha)/k U U^T for a
    subspace U of k = 1 surrogate gradients, which is all that the mean of an estimate depends on; the authors draw a
    factor of g as well. The mean is biased: of the target, what lies along g counts more, unless alpha = 1.

    Adapted: n and |g| are those of a sample's activities, or of a tensor of parameters (a convolution's weight is one);
    the authors perturb all parameters at once. Derivatives stand in for their pairs of function values. Of
    ``SeveralAuxiliaries``, the sum of the losses has one guide, and other combinations a direction around each.

    Needs what the local guess does: auxiliary networks, a backward pass through them and, for parameters, the block.

    Args:
        alpha: the share of noise, from 0, the local guess, to 1, no guide.
        combine: see ``LocalGuess``.

    Raises:
        ValueError: for any other ``alpha``.
    """

    randomness = "shared"

    def __init__(self, alpha: float = 0.5, combine: str | None = None) -> None:
        super().__init__(combine=combine)
        if type(alpha) not in (int, float) or not 0 <= alpha <= 1:
            raise ValueError(f"guess.alpha must be a number from 0 to 1, got {alpha}")
        self.alpha = alpha

    def in_space(
        self, block_pass: BlockPass, pulled: Sequence[Tensor] | None, likes: Sequence[Tensor], *, by_sample: bool
    ) -> list[Tensor]:
        """See ``Guess``: noise is drawn there."""
        return [self._around(guides, 2 if by_sample else 1) for guides in pulled or ()]

    def _around(self, guides: Tensor, leading: int) -> Tensor:
        """Directions around guides, of which there is one for each index of so many leading dimensions."""
        rows = guides.reshape(guides.shape[:leading].numel(), -1)
        noise = torch.randn_like(rows) / rows.shape[1] ** 0.5
        mixed = self.alpha**0.5 * noise + (1 - self.alpha) ** 0.5 * unit_rows(rows)
        return unit_rows(mixed).to(guides.dtype).view(guides.shape)
