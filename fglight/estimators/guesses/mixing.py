"""The guess from the batch's own activities."""

import torch
from torch import Tensor

from fglight.autodiff.passes import BlockPass
from fglight.estimators.guesses.base import Guess, stack


class MixingGuess(Guess):
    """A random mixture of the batch's activities, where the sample's own are not zero.

    For sample i, g_j[i] = (sum_b xi_b h_j[b]) * [h_j[i] != 0], with xi standard normal, one a sample b of the whole
    batch and the same for all i. After the feature-aware guess of Singhal et al. (2023, arXiv 2312.04709): gradients
    lie close to the span of activities, and behind a ReLU are zero where it is. Maps are mixed as they are, channels
    and positions alike.

    Needs h_j alone; no backward pass but the block's own, no transport of weights. Its covariance is that of the
    activities, and not the identity, so that no coefficient makes it unbiased.
    """

    randomness = "samples"
    several = True

    def directions(self, block_pass: BlockPass) -> Tensor:
        """See ``Guess``."""
        h = block_pass.output.detach()
        weights = stack([self.sample(h.new_empty(len(h))) for _ in range(self.k)])
        (mixed,) = block_pass.network.batch.sum([torch.tensordot(weights, h, 1)])  # (k, ...)
        return mixed.to(h.dtype).unsqueeze(1) * (h != 0)

    def sample(self, like: Tensor) -> Tensor:
        """See ``Guess``: xi, ``(batch,)``."""
        return torch.randn_like(like)
