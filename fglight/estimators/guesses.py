"""Gradient guesses (Sec. 3.1): the direction that a target is projected on.

A guess of your own subclasses ``Guess`` (or ``RandomGuess``, which needs one method), and a file in ``conf/guess``
names it.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from fglight.estimators.linalg import span_coefficients
from fglight.estimators.passes import BlockPass, local_loss
from fglight.models.blocks import Block
from fglight.models.initialization import reset_parameters

EPS = 1e-16
"""Added to squared norms of guesses before dividing by them."""

COMBINATIONS = ("mean", "span")


class Guess(ABC):
    """One or several directions in the space of a block's output or of its parameters.

    Args:
        directions: how many directions k the target is projected on.
        combine: what becomes of k projections: their ``mean``, or the orthogonal projection on the ``span`` of the
            directions (Flügel et al. 2024, arXiv 2410.17764).

    Attributes:
        uses_auxiliaries: whether the direction comes from the block's local loss.
        trains_auxiliaries: whether auxiliary networks may train at all with this guess.
        several: whether there can be more than one direction.

    Raises:
        ValueError: for more directions than the guess can have, or an unknown way to combine them.
    """

    uses_auxiliaries = False
    trains_auxiliaries = True
    several = False

    def __init__(self, directions: int = 1, combine: str = "mean") -> None:
        if type(directions) is not int or directions < 1:
            raise ValueError(f"guess.directions={directions} is not possible: accepted is a whole number from 1 on")
        if directions > 1 and not self.several:
            raise ValueError(f"guess.directions={directions} means nothing for {type(self).__name__}: accepted is 1")
        if combine not in COMBINATIONS:
            raise ValueError(f"guess.combine={combine} does not exist: accepted is {', '.join(COMBINATIONS)}")
        self.directions = directions
        self.combine = combine

    @property
    def drawn(self) -> bool:
        """Whether random numbers are drawn when directions are asked for."""
        return self.directions > 1

    def prepare(self, blocks: Sequence[Block]) -> None:  # noqa: B027 (most guesses have nothing to prepare)
        """Called before every step's forward pass with all blocks of the network."""

    @abstractmethod
    def activity(self, here: BlockPass) -> Tensor:
        """The directions in the space of h_j, ``(k, batch, ...)`` for h_j of shape ``(batch, ...)``."""

    @abstractmethod
    def weight(self, here: BlockPass) -> list[Tensor]:
        """The directions in the space of theta_j, ``(k, *shape)`` for each of ``here.parameters``."""

    def coefficients(self, products: Tensor, gram: Tensor) -> Tensor:
        """The factors c that turn directions g_1 .. g_k into the estimate of a target t, the sum of c_m g_m.

        Args:
            products: <t, g_m>, ``(..., k)``.
            gram: <g_l, g_m>, ``(..., k, k)``.

        Returns:
            The factors, ``(..., k)``.
        """
        if self.combine == "span":
            return span_coefficients(products, gram)
        return self.coefficient(products, gram.diagonal(dim1=-2, dim2=-1)) / self.directions

    def coefficient(self, product: Tensor, square: Tensor) -> Tensor:
        """The factor c for a single direction g: here <t, g> / (|g|^2 + eps).

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
        return here.local_gradient.unsqueeze(0)

    def weight(self, here: BlockPass) -> list[Tensor]:
        """See ``Guess``; the block's graph is freed."""
        cotangents = self.activity(here)
        by_direction = [
            here.to_parameters(cotangent, keep=m + 1 < len(cotangents)) for m, cotangent in enumerate(cotangents)
        ]
        return [stack(tensors) for tensors in zip(*by_direction)]


class ExactGuess(LocalGuess):
    """The target itself: no projection takes place, ``Unprojected`` hands the target on."""

    uses_auxiliaries = False


class FixedNTKGuess(LocalGuess):
    """The gradient of L_j with auxiliary networks that stay as they were drawn (App. B.2)."""

    trains_auxiliaries = False


class NTKGuess(FixedNTKGuess):
    """The gradient of L_j with auxiliary networks that are drawn afresh before every step.

    With several directions, each comes from an auxiliary network of its own.
    """

    several = True

    def prepare(self, blocks: Sequence[Block]) -> None:
        """Redraw every auxiliary network but the head."""
        for block in blocks[:-1]:
            reset_parameters(block.aux)

    def activity(self, here: BlockPass) -> Tensor:
        """See ``Guess``."""
        gradients = [here.local_gradient]
        if self.directions > 1:
            aux = here.block.aux
            kept = [parameter.detach().clone() for parameter in aux.parameters()]
            with here.buffers.again(aux):
                for _ in range(1, self.directions):
                    reset_parameters(aux)
                    loss = local_loss(
                        here.block, here.output, here.batch.labels, here.buffers, to_output=True, train=False
                    )
                    gradients.append(loss.gradient)
            with torch.no_grad():
                for parameter, value in zip(aux.parameters(), kept):
                    parameter.copy_(value)
        return stack(gradients)


class RandomGuess(Guess):
    """Random directions with mean zero and unit covariance, so that E[<t, g> g] = t."""

    several = True
    drawn = True

    @abstractmethod
    def sample(self, like: Tensor) -> Tensor:
        """Draw one direction in the shape, dtype and device of ``like``, from torch's default generator.

        Called for blocks 0..J-2 in order and, for weight perturbations, in the order of ``body.parameters()``; once for
        each direction.
        """

    def samples(self, like: Tensor) -> Tensor:
        """All k directions, ``(k, *like.shape)``."""
        return stack([self.sample(like) for _ in range(self.directions)])

    def activity(self, here: BlockPass) -> Tensor:
        """See ``Guess``."""
        return self.samples(here.output.detach())

    def weight(self, here: BlockPass) -> list[Tensor]:
        """See ``Guess``."""
        return [self.samples(parameter.detach()) for parameter in here.parameters]

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


def stack(directions: Sequence[Tensor]) -> Tensor:
    """Directions one below the other, ``(k, *shape)``; a view of a single one."""
    return directions[0].unsqueeze(0) if len(directions) == 1 else torch.stack(list(directions))
