"""Inner products, Gram matrices and combinations of a few directions, for many projections at once.

A *unit* is what one projection stands for: a sample, a parameter tensor, one of its filters. Every unit has its own
target t and k directions g_1 .. g_k, flattened to ``(units, features)`` and ``(units, k, features)``.
"""

from collections.abc import Callable
from functools import wraps

import torch
from torch import Tensor
from torch.nn.functional import normalize


def in_full_precision(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Have a function of tensors computed in at least single precision, also where autocast is on."""

    @wraps(function)
    def run(*tensors: Tensor) -> Tensor:
        with torch.autocast(tensors[0].device.type, enabled=False):
            return function(*(x.float() if x.dtype in (torch.float16, torch.bfloat16) else x for x in tensors))

    return run


@in_full_precision
def products(targets: Tensor, directions: Tensor) -> Tensor:
    """⟨t, g_m⟩, ``(units, k)``, of ``(units, features)`` and ``(units, k, features)``."""
    return (directions @ targets.unsqueeze(-1)).squeeze(-1)  # faster on CPUs than a product and a sum


@in_full_precision
def matmul(left: Tensor, right: Tensor) -> Tensor:
    """The matrix product."""
    return left @ right


@in_full_precision
def gram(directions: Tensor) -> Tensor:
    """⟨g_l, g_m⟩, ``(units, k, k)``, of ``(units, k, features)``."""
    return directions @ directions.mT


@in_full_precision
def combine(coefficients: Tensor, directions: Tensor) -> Tensor:
    """The sum of c_m g_m over m, ``(units, features)``, of ``(units, k)`` and ``(units, k, features)``."""
    if directions.shape[-2] == 1:  # no kernel may round what a factor of one leaves as it is
        return coefficients * directions.squeeze(-2)
    return (coefficients.unsqueeze(-2) @ directions).squeeze(-2)


def span_coefficients(products: Tensor, gram: Tensor) -> Tensor:
    """Coefficients of the orthogonal projection of targets on the span of their directions.

    This is (G G^T)^+ G t for directions as the rows of G. Gram matrices may be singular: the pseudo-inverse drops
    eigenvalues under ``k * machine epsilon`` of the largest, after the directions are scaled to unit length, so that
    the cut-off is indifferent to how their lengths differ.

    Args:
        products: G t, ``(..., k)``.
        gram: G G^T, ``(..., k, k)``, or what broadcasts to it.

    Returns:
        The coefficients, ``(..., k)``.
    """
    squares = gram.diagonal(dim1=-2, dim2=-1).double()
    scale = torch.where(squares > 0, squares, torch.inf).rsqrt()  # (..., k)
    unit = gram.double() * scale.unsqueeze(-1) * scale.unsqueeze(-2)
    eigenvalues, eigenvectors = torch.linalg.eigh(unit)
    cutoff = gram.shape[-1] * torch.finfo(gram.dtype).eps * eigenvalues[..., -1:]
    inverse = torch.where(eigenvalues > cutoff.clamp_min(0), eigenvalues, torch.inf).reciprocal()
    rotated = (products.double() * scale).unsqueeze(-2) @ eigenvectors  # (..., 1, k)
    solution = (rotated * inverse.unsqueeze(-2)) @ eigenvectors.mT
    return (solution.squeeze(-2) * scale).to(products.dtype)


@in_full_precision
def unit_rows(directions: Tensor) -> Tensor:
    """Directions ``(directions, features)`` scaled to unit length: squares of small ones would underflow."""
    return normalize(directions, dim=1, eps=torch.finfo(directions.dtype).tiny)


def cosine(products: Tensor, gram: Tensor, coefficients: Tensor, target_squares: Tensor) -> Tensor:
    """Cosine similarity with a target: of its guess (Eq. 6), or of its estimate where that has several coefficients.

    Args:
        products: ⟨t, g_m⟩ of the units that make up a target, ``(..., units, k)``.
        gram: ⟨g_l, g_m⟩, ``(..., units, k, k)``.
        coefficients: c_m of the estimate, ``(..., units, k)``.
        target_squares: |t|^2 of the whole target, ``(...)``.

    Returns:
        The similarity, ``(...)``, 0 where guess or target is.
    """
    if products.shape[-2:] == (1, 1):
        product, square = products[..., 0, 0], gram[..., 0, 0, 0]
    else:
        product = (coefficients * products).sum((-2, -1))
        square = (coefficients.unsqueeze(-2) @ gram @ coefficients.unsqueeze(-1)).sum((-3, -2, -1))
    norms = square.clamp_min(0).sqrt() * target_squares.sqrt()
    return product / norms.clamp_min(torch.finfo(norms.dtype).tiny)


def random_signs(like: Tensor) -> Tensor:
    """Independent signs, +1 or -1 with equal probability, in the shape of ``like``, from torch's default generator."""
    return torch.empty_like(like).bernoulli_().mul_(2).sub_(1)
