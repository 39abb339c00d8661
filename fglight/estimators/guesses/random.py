"""Guesses that are drawn."""

from abc import abstractmethod

import torch
from torch import Tensor

from fglight.estimators import linalg
from fglight.estimators.coefficients import InnerProduct
from fglight.estimators.guesses.base import Guess, stack
from fglight.estimators.passes import BlockPass


class RandomGuess(Guess):
    """Random directions with mean zero and unit covariance, so that E[⟨t, g⟩ g] = t."""

    random = True
    several = True
    coefficient = InnerProduct()
    needs_graph = False

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

    def samples(self, like: Tensor) -> Tensor:
        """Draw all k directions.

        Args:
            like: what the directions are for.

        Returns:
            ``(k, *like.shape)``.
        """
        return stack([self.sample(like) for _ in range(self.directions)])

    def activity(self, here: BlockPass) -> Tensor:
        """See ``Guess``."""
        return self.samples(here.output.detach())

    def weight(self, here: BlockPass) -> list[Tensor]:
        """See ``Guess``."""
        return [self.samples(parameter.detach()) for parameter in here.parameters]


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
