"""Guesses that are drawn."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from fglight.autodiff import linalg
from fglight.autodiff.passes import BlockPass
from fglight.estimators.coefficients import InnerProduct
from fglight.estimators.guesses.base import Guess, stack


class RandomGuess(Guess, ABC):
    """Random directions with mean zero and unit covariance, so that E[⟨t, g⟩ g] = t.

    Args:
        directions: see ``Guess``.
        combine: see ``Guess``.
        rescale: whether a projection on the span of k directions is stretched by sqrt(d/k), where d is the dimension of
            what a coefficient stands for (1 from k = d on). A projection P on a random k-dimensional subspace has
            E|P t|^2 = k/d |t|^2, so that the stretched one is as long as the target, in the mean square. It is what
            Flügel et al.'s code (arXiv 2410.17764) calls scaling correction, there with the means of |P t| and |t| for
            gaussian directions, which are in the same proportion for large k.

    Raises:
        ValueError: for ``rescale`` of anything but a span.
    """

    random = True
    pulled = False
    randomness = "shared"
    several = True
    coefficient = InnerProduct()

    def __init__(self, directions: int = 1, combine: str | None = None, rescale: bool = False) -> None:
        super().__init__(directions, combine)
        if type(rescale) is not bool:
            raise ValueError(f"guess.rescale must be true or false, got {rescale}")
        if rescale and self.combine != "span":
            raise ValueError(f"guess.combine must be span with guess.rescale=true, got {self.combine}")
        self.rescale = rescale

    def check(self, space: Any) -> None:
        """See ``Guess``: the span of a batch's directions has no length to correct."""
        if self.rescale and space.spans:
            raise ValueError(f"guess.rescale must be false with {type(space).__name__}, got true")

    def length_correction(self, k: int, dimension: int) -> float:
        """See ``Guess``."""
        return max(1, dimension / k) ** 0.5 if self.rescale else 1.0

    @abstractmethod
    def sample(self, like: Tensor) -> Tensor:
        """Draw one direction from torch's default generator.

        Called for blocks 0..J-2 in order and, for weight perturbations, in the order of ``body.parameters()``; once for
        each direction.

        Args:
            like: what the direction is for.

        Returns:
            A direction in the shape, dtype and device of ``like``, a tensor of its own.
        """

    def sample_each(self, like: Tensor) -> Tensor:
        """Draw a direction for each sample, in the shape of ``like``, ``(batch, ...)``; at once, unless overridden."""
        return self.sample(like)

    def in_space(
        self, block_pass: BlockPass, pulled: Sequence[Tensor] | None, likes: Sequence[Tensor], *, by_sample: bool
    ) -> Iterator[Tensor]:
        """See ``Guess``; each is drawn when it is asked for."""
        draw = self.sample_each if by_sample else self.sample
        for like in likes:
            yield stack([draw(like) for _ in range(self.k)])


class GaussianGuess(RandomGuess):
    """A standard normal direction (Ren et al. 2022)."""

    def sample(self, like: Tensor) -> Tensor:
        """See ``RandomGuess``."""
        return torch.randn_like(like)


class RademacherGuess(RandomGuess):
    """Independent signs, +1 or -1 with equal probability (Belouze 2022)."""

    def sample(self, like: Tensor) -> Tensor:
        """See ``RandomGuess``."""
        return linalg.random_signs(like)
