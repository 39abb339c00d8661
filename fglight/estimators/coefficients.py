"""Coefficients: the factor c that makes of a direction g an estimate c g of a target t."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fglight.autodiff import linalg
from fglight.autodiff.batch import Batch

EPS = 1e-16
"""Added to squared norms of directions before dividing by them."""


class Coefficient(ABC):
    """A rule for the factor of a direction; there is one factor for each unit of the perturbation's granularity.

    Attributes:
        name: of the setting.
        uses_products: whether ⟨t, g⟩ matters; without, no target and no derivative is computed.
        projects: whether c g is the orthogonal projection on g, which alone can become one on the span of several.
        by_sample: whether it means something for coefficients of single samples only.
        random: whether it is drawn.
        constant: the factor, where it is one and the same always.
    """

    name = "your own"
    uses_products = True
    projects = False
    by_sample = False
    random = False
    constant: float | None = None

    @abstractmethod
    def __call__(self, product: Any, square: Tensor) -> Tensor:
        """The factors.

        Args:
            product: inner products ⟨t, g⟩, a tensor of any shape; may be None where they are not used.
            square: squared norms |g|^2, same shape.
        """

    def scale(self, factors: Tensor, batch: Batch) -> Tensor | float:
        """What all samples' factors, ``(batch, ...)``, are multiplied by, known once the whole batch's are."""
        return 1.0


class Projection(Coefficient):
    """⟨t, g⟩ / (|g|^2 + eps): c g is the orthogonal projection of t on g (Eqs. 4 and 5)."""

    name = "projection"
    projects = True

    def __call__(self, product: Tensor, square: Tensor) -> Tensor:
        """See ``Coefficient``."""
        return product / (square + EPS)


class InnerProduct(Coefficient):
    """⟨t, g⟩: unbiased for random directions of unit covariance (Eq. 1)."""

    name = "inner"

    def __call__(self, product: Tensor, square: Tensor) -> Tensor:
        """See ``Coefficient``."""
        return product


class Sign(Coefficient):
    """The sign of ⟨t, g⟩: of the derivative, only whether to go forwards or backwards."""

    name = "sign"

    def __call__(self, product: Tensor, square: Tensor) -> Tensor:
        """See ``Coefficient``."""
        return product.sign()


class RandomSign(Coefficient):
    """+1 or -1 with equal probability, whatever the target: a control."""

    name = "random_sign"
    uses_products = False
    random = True

    def __call__(self, product: Tensor | None, square: Tensor) -> Tensor:
        """See ``Coefficient``; from torch's default generator."""
        return linalg.random_signs(square)


class Positive(Coefficient):
    """n/n+ where ⟨t, g⟩ > 0, else 0, for n samples of which n+ have a positive product; all are 0 where none has."""

    name = "positive"
    by_sample = True

    def __call__(self, product: Tensor, square: Tensor) -> Tensor:
        """See ``Coefficient``."""
        return (product > 0).to(product.dtype)

    def scale(self, factors: Tensor, batch: Batch) -> Tensor:
        """See ``Coefficient``: n/n+ of the samples of all processes."""
        (share,) = batch.mean([factors])
        return torch.where(share > 0, share.reciprocal(), 0)


class One(Coefficient):
    """One: the direction itself, whatever the target. With a local guess, this is local learning."""

    name = "one"
    uses_products = False
    constant = 1.0

    def __call__(self, product: Tensor | None, square: Tensor) -> Tensor:
        """See ``Coefficient``."""
        return torch.ones_like(square)


class Function(Coefficient):
    """A function of products and squared norms, such as a guess's own method."""

    def __init__(self, function: Callable[[Tensor, Tensor], Tensor]) -> None:
        self.function = function

    def __call__(self, product: Tensor, square: Tensor) -> Tensor:
        """See ``Coefficient``."""
        return self.function(product, square)


COEFFICIENTS = {kind.name: kind() for kind in (Projection, InnerProduct, Sign, RandomSign, Positive, One)}
