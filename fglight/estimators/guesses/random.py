"""Guesses that are drawn."""

from abc import abstractmethod

import torch
from torch import Tensor

from fglight.estimators import linalg
from fglight.estimators.coefficients import InnerProduct
from fglight.estimators.guesses.base import Guess, stack
from fglight.estimators.passes import BlockPass


class RandomGuess(Guess):
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
    alike = True
    draws = True
    several = True
    coefficient = InnerProduct()
    needs_graph = False

    def __init__(self, directions: int = 1, combine: str | None = None, rescale: bool = False) -> None:
        super().__init__(directions, combine)
        if type(rescale) is not bool:
            raise ValueError(f"guess.rescale={rescale} is not possible: accepted is true or false")
        if rescale and self.combine != "span":
            raise ValueError(
                f"guess.rescale=true means nothing with guess.combine={self.combine}: accepted is guess.combine=span"
            )
        self.rescale = rescale

    def stretched(self, coefficients: Tensor, dimension: int) -> Tensor:
        """See ``Guess``."""
        if not self.rescale:
            return coefficients
        return coefficients * max(1, dimension / coefficients.shape[-1]) ** 0.5

    @abstractmethod
    def sample(self, like: Tensor) -> Tensor:
        """Draw one direction from torch's default generator.

        Called for blocks 0..J-2 in order and, for weight perturbations, in the order of ``body.parameters()``; once for
        each direction.

        Args:
            like: what the direction is for.

        Returns:
            A direction in the shape, dtype and device of ``like``.
        """

    def sample_each(self, like: Tensor) -> Tensor:
        """Draw a direction for each sample, in the shape of ``like``, ``(batch, ...)``; at once, unless overridden."""
        return self.sample(like)

    def activity(self, here: BlockPass) -> Tensor:
        """See ``Guess``."""
        return self.by_sample(None, here.output.detach())

    def weight(self, here: BlockPass) -> list[Tensor]:
        """See ``Guess``."""
        return [stack([self.sample(p.detach()) for _ in range(self.directions)]) for p in here.parameters]

    def by_sample(self, directions: Tensor | None, like: Tensor) -> Tensor:
        """See ``Guess``."""
        return stack([self.sample_each(like) for _ in range(self.directions)])


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
