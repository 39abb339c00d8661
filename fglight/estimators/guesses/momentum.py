"""The guess from past estimates."""

from collections.abc import Mapping, Sequence
from functools import reduce
from typing import Any

import torch
from torch import Tensor, nn

from fglight.autodiff import linalg
from fglight.autodiff.passes import BlockPass
from fglight.estimators.guesses.base import Guess
from fglight.models.blocks import Block


class MomentumGuess(Guess):
    """The running mean of a parameter tensor's past estimates, and noise where there is none yet.

    m <- decay m + (1 - decay) estimate after every step, and for each tensor with m != 0

        g = sqrt(1 - noise) m / |m| + sqrt(noise) xi / |xi|,

    xi standard normal; for one with m = 0 (at first, or where the coefficient was zero) g = xi / |xi|. That past
    estimates point to where the gradient is: FwdLLM (Xu et al. 2024, arXiv 2308.13894) keeps those of many random
    directions that are close to the last estimate. Here no derivative is spent on choosing among several.

    Needs a tensor as large as the weights that lasts; no backward pass, no transport of weights. Every estimate is a
    multiple of g: with ``noise=0`` and one coefficient a tensor, a tensor stays on the line that it was first drawn on.

    Args:
        decay: of the running mean, in [0, 1).
        noise: the share of the guess's squared length that is drawn anew in every step, in [0, 1].

    Raises:
        ValueError: for anything else.
    """

    pulled = False
    randomness = "shared"
    keeps = ("momentum",)

    def __init__(self, decay: float = 0.9, noise: float = 0.0) -> None:
        super().__init__()
        if not (isinstance(decay, float | int) and 0 <= decay < 1):
            raise ValueError(f"guess.decay must be a number from 0 to below 1, got {decay}")
        if not (isinstance(noise, float | int) and 0 <= noise <= 1):
            raise ValueError(f"guess.noise must be a number from 0 to 1, got {noise}")
        self.decay = decay
        self.noise = noise

    def begin(self, block: Block, output: Tensor, classes: int) -> Sequence[Tensor]:
        """See ``Guess``: zeros, all parameters of the body in one row."""
        parameters = list(block.body.parameters())
        like = next(iter(parameters), output)
        dtype = reduce(torch.promote_types, [p.dtype for p in parameters], like.dtype)
        return [like.new_zeros(sum(parameter.numel() for parameter in parameters), dtype=dtype)]

    def check(self, space: Any) -> None:
        """See ``Guess``: past estimates are of the whole batch's weights."""
        if space.by_sample:
            raise ValueError(
                f"{type(space).__name__} is not possible with {type(self).__name__}, whose directions are of the whole "
                "batch's weights: use perturb=weight"
            )

    def in_space(
        self, block_pass: BlockPass, pulled: Sequence[Tensor] | None, likes: Sequence[Tensor], *, by_sample: bool
    ) -> list[Tensor]:
        """See ``Guess``."""
        sizes = {parameter: parameter.numel() for parameter in block_pass.block.body.parameters()}
        means = dict(zip(sizes, block_pass.block.get_buffer("momentum").split(list(sizes.values()))))
        return [self._direction(means[p]).view(1, *p.shape).to(p.dtype) for p in block_pass.parameters]

    def _direction(self, mean: Tensor) -> Tensor:
        known, drawn = linalg.unit_rows(torch.stack([mean, torch.randn_like(mean)]))
        blended = (1 - self.noise) ** 0.5 * known + self.noise**0.5 * drawn
        return torch.where(known.any(), blended, drawn)

    def update(self, block: Block, estimate: Mapping[nn.Parameter, Tensor]) -> None:
        """See ``Guess``."""
        found = [estimate.get(p, torch.zeros_like(p)).flatten() for p in block.body.parameters()]
        if found:
            mean = block.get_buffer("momentum")
            mean.lerp_(torch.cat(found).to(mean.dtype), 1 - self.decay)
