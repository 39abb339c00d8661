"""Random directions of low rank."""

import torch
from torch import Tensor

from fglight.estimators.guesses.random import RandomGuess
from fglight.models.sizes import check_positive_ints


class LowRankGuess(RandomGuess):
    """A B^T / sqrt(r) for each weight matrix, A and B standard normal with r columns (Sarkar et al. 2025, EGGROLL,
    arXiv 2511.16652, Sec. 4.1).

    Entries have unit covariance, so that E[<t, xi> xi] = t, but are not normal; the sum over steps has full rank.

    Adapted: a convolution's weight is the matrix (out, in * kernel height * kernel width). Vectors, such as biases and
    scales of normalisation, have standard normal directions. In activity space, which the authors do not have, each
    sample's activities are a matrix (channels, positions). Derivatives stand in for their fitnesses, and directions are
    written out, so that a step is not the cheaper for them.

    Needs no backward pass and no weight transport.

    Args:
        rank: r.
        directions: see ``Guess``.
        combine: see ``Guess``.
        rescale: see ``RandomGuess``.

    Raises:
        ValueError: for a rank below 1.
    """

    def __init__(self, rank: int = 1, directions: int = 1, combine: str | None = None, rescale: bool = False) -> None:
        super().__init__(directions, combine, rescale)
        check_positive_ints("guess", rank=rank)
        self.rank = rank

    def sample(self, like: Tensor) -> Tensor:
        """See ``RandomGuess``: one matrix, its first dimension by the others."""
        return self.sample_each(like.unsqueeze(0)).squeeze(0)

    def sample_each(self, like: Tensor) -> Tensor:
        """See ``RandomGuess``: a matrix for each sample."""
        if like.dim() < 3:
            return torch.randn_like(like)
        batch, rows, columns = *like.shape[:2], like.shape[2:].numel()
        a, b = (like.new_empty(batch, size, self.rank).normal_() for size in (rows, columns))
        return (a @ b.mT / self.rank**0.5).view(like.shape)
