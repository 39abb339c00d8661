"""From inner products with a target to the coefficients of an estimate (Eqs. 1, 4 and 5)."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fglight.autodiff.linalg import span_coefficients


def combine(how: str, coefficient: Callable[[Tensor | None, Tensor], Tensor], products: Any, gram: Tensor) -> Tensor:
    """The coefficients c that turn directions g_1 .. g_k into the estimate of a target t, the sum of c_m g_m.

    Args:
        how: ``mean``, of the estimates of each direction (``sum``, whose directions are one, is it, too); ``span``, the
            orthogonal projection on all of them; or ``max``, the estimate of the best aligned one, of the greatest
            |⟨t, g⟩| / |g|, the first of those that are alike.
        coefficient: the factor of a single direction, of ⟨t, g⟩ and |g|².
        products: ⟨t, g_m⟩, a tensor ``(samples, units, k)``; None where no coefficient needs them.
        gram: ⟨g_l, g_m⟩, ``(samples, units, k, k)``.

    Returns:
        The coefficients, ``(samples, units, k)``.
    """
    if how == "span":
        return span_coefficients(products, gram)
    squares = gram.diagonal(dim1=-2, dim2=-1)
    factors = coefficient(products, squares)
    if how != "max":
        return factors / factors.shape[-1]
    aligned = products.abs() * torch.where(squares > 0, squares, torch.inf).rsqrt()
    # In one dimension all are aligned alike: rounding must not choose among them.
    best = aligned >= (1 - torch.finfo(aligned.dtype).eps ** 0.5) * aligned.amax(-1, keepdim=True)
    first = best.to(torch.uint8).argmax(-1, keepdim=True)
    return torch.zeros_like(factors).scatter(-1, first, factors.gather(-1, first))
