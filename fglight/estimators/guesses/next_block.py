"""The guess that knows the next block's weights."""

import torch
from torch import Tensor

from fglight.autodiff.passes import BlockPass
from fglight.estimators.guesses.base import Guess, stack


class NextBlockGuess(Guess):
    """A random cotangent pulled back through the next block: g_j = (dh_{j+1} / dh_j)^T xi, with xi standard normal.

    After Singhal et al. (2023, arXiv 2312.04709), whose architecture-aware guess W^T (mask * xi) it is where block j+1
    is a linear layer and a ReLU. The target, too, is a cotangent of h_{j+1} pulled back, and so lies in the same row
    space of the block's Jacobian. In a network of convolutions and normalisation W^T becomes the Jacobian of the whole
    block, its skip connection and the ReLU behind it.

    Needs a backward pass through one block, the next, with its weights. Its covariance is that Jacobian's J^T J and not
    the identity: with ``perturb.coefficient=inner`` the estimate of t is J^T J t on average.
    """

    needs = frozenset({"next"})
    randomness = "samples"
    several = True

    def directions(self, block_pass: BlockPass) -> Tensor:
        """See ``Guess``."""
        after = block_pass.next
        cotangents = [self.sample(after.output.detach()) for _ in range(self.k)]
        return stack([after.vjp(cotangent, [after.input])[0] for cotangent in cotangents])

    def sample(self, like: Tensor) -> Tensor:
        """See ``Guess``: xi, for h_{j+1}."""
        return torch.randn_like(like)
