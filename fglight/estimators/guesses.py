"""Gradient guesses (Sec. 3.1): the direction that a target is projected on.

A guess of your own subclasses ``Guess`` (or ``RandomGuess``, which needs one method), and a file in ``conf/guess``
names it.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from fglight.estimators.passes import BlockPass
from fglight.models.blocks import Block
from fglight.models.initialization import reset_parameters

EPS = 1e-16
"""Added to squared norms of guesses before dividing by them."""


class Guess(ABC):
    """A direction in the space of a block's output or of its parameters.

    Attributes:
        uses_auxiliaries: whether the direction comes from the block's local loss.
        trains_auxiliaries: whether auxiliary networks may train at all with this guess.
    """

    uses_auxiliaries = False
    trains_auxiliaries = True

    def prepare(self, blocks: Sequence[Block]) -> None:  # noqa: B027 (most guesses have nothing to prepare)
        """Called before every step's forward pass with all blocks of the network."""

    @abstractmethod
    def activity(self, here: BlockPass) -> Tensor:
        """The guess in the space of h_j, ``(batch, ...)`` in h_j's shape."""

    @abstractmethod
    def weight(self, here: BlockPass) -> list[Tensor]:
        """The guess in the space of theta_j, a tensor for each of ``here.parameters``."""

    def coefficient(self, product: Tensor, square: Tensor) -> Tensor:
        """The factor c that turns a guess g into the estimate c g of a target t: here <t, g> / (|g|^2 + eps).

        Args:
            product: inner products <t, g>, any shape.
            square: squared norms |g|^2, same shape.
        """
        return product / (square + EPS)


class LocalGuess(Guess):
    """The gradient of the block's own local loss L_j."""

    uses_auxiliaries = True

    def activity(self, here: BlockPass) -> Tensor:
        """See ``Guess``."""
        return here.local_gradient

    def weight(self, here: BlockPass) -> list[Tensor]:
        """See ``Guess``."""
        return here.to_parameters(here.local_gradient, keep=False)


class ExactGuess(LocalGuess):
    """The target itself: no projection takes place, ``Unprojected`` hands the target on."""

    uses_auxiliaries = False


class FixedNTKGuess(LocalGuess):
    """The gradient of L_j with auxiliary networks that stay as they were drawn (App. B.2)."""

    trains_auxiliaries = False


class NTKGuess(FixedNTKGuess):
    """The gradient of L_j with auxiliary networks that are drawn afresh before every step."""

    def prepare(self, blocks: Sequence[Block]) -> None:
        """Redraw every auxiliary network but the head."""
        for block in blocks[:-1]:
            reset_parameters(block.aux)


class RandomGuess(Guess):
    """A random direction with mean zero and unit covariance, so that E[<t, g> g] = t."""

    @abstractmethod
    def sample(self, like: Tensor) -> Tensor:
        """Draw one direction in the shape, dtype and device of ``like``, from torch's default generator.

        Called for blocks 0..J-2 in order and, for weight perturbations, in the order of ``body.parameters()``.
        """

    def activity(self, here: BlockPass) -> Tensor:
        """See ``Guess``."""
        return self.sample(here.output.detach())

    def weight(self, here: BlockPass) -> list[Tensor]:
        """See ``Guess``."""
        return [self.sample(parameter.detach()) for parameter in here.parameters]

    def coefficient(self, product: Tensor, square: Tensor) -> Tensor:
        """The inner product itself, which makes the estimate unbiased (Eq. 1)."""
        return product


class GaussianGuess(RandomGuess):
    """A standard normal direction (Ren et al. 2022)."""

    def sample(self, like: Tensor) -> Tensor:
        """See ``RandomGuess``."""
        return torch.randn_like(like)


class RademacherGuess(RandomGuess):
    """Independent signs, +1 or -1 with equal probability (Belouze 2022)."""

    def sample(self, like: Tensor) -> Tensor:
        """See ``RandomGuess``."""
        return torch.empty_like(like).bernoulli_().mul_(2).sub_(1)
