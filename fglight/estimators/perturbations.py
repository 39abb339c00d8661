"""Perturbations (Sec. 3.3): the space in which a target is projected on a guess."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fglight.estimators.guesses import Guess
from fglight.estimators.layers import LayerCall
from fglight.estimators.passes import BlockPass
from fglight.estimators.targets import TargetGradient


@dataclass
class Estimate:
    """The estimate of one block's gradient.

    Attributes:
        gradients: a tensor for each trained parameter of the body.
        cosine: mean cosine similarity of guess and target, a scalar; None where it was not asked for.
    """

    gradients: list[Tensor]
    cosine: Tensor | None = None


class Perturbation(ABC):
    """Turns the targets and guesses of all blocks into estimates of their gradients.

    Args:
        granularity: what one coefficient stands for; None takes the first of ``granularities``, which is the paper's.

    Attributes:
        granularities: what it can be.
        weight_target: whether the targets with respect to the parameters are needed.

    Raises:
        ValueError: for any other granularity.
    """

    granularities = ("sample",)
    weight_target = False

    def __init__(self, granularity: str | None = None) -> None:
        self.granularity = granularity or self.granularities[0]
        if self.granularity not in self.granularities:
            raise ValueError(
                f"perturb.granularity={granularity} means nothing for {type(self).__name__}: "
                f"accepted is {', '.join(self.granularities)}"
            )

    def recording(self, body: nn.Module) -> AbstractContextManager[list[LayerCall]]:
        """A context in which ``body`` runs once; its value is what the perturbation wants to know of its layers."""
        return nullcontext([])

    @abstractmethod
    def __call__(
        self, passes: Sequence[BlockPass], targets: Sequence[TargetGradient], guess: Guess, *, cosine: bool = False
    ) -> Iterator[Estimate]:
        """The estimates of blocks 0..J-2, in order.

        Args:
            passes: blocks 0..J-2 of one forward pass.
            targets: their targets.
            guess: where the guesses come from.
            cosine: whether the cosine similarity of guess and target is wanted too.
        """


class Unprojected(Perturbation):
    """No projection: the estimate is the target. What ``guess=exact`` uses, whatever the perturbation."""

    weight_target = True

    def __call__(
        self, passes: Sequence[BlockPass], targets: Sequence[TargetGradient], guess: Guess, *, cosine: bool = False
    ) -> Iterator[Estimate]:
        """See ``Perturbation``; a cosine similarity of one would be no news and is left out."""
        for target in targets:
            yield Estimate(target.weight)


def _rows(tensor: Tensor) -> Tensor:
    """Flatten to ``(batch, features)``, in at least single precision."""
    rows = tensor.flatten(1)
    return rows.float() if rows.dtype in (torch.float16, torch.bfloat16) else rows


def _row_cosine(product: Tensor, target: Tensor, square: Tensor) -> Tensor:
    """Eq. 6: the mean over samples of <t_i, g_i> / (|t_i| |g_i|), from <t_i, g_i>, t_i and |g_i|^2."""
    norms = torch.linalg.vector_norm(target, dim=1) * square.sqrt()
    return (product / norms.clamp_min(torch.finfo(norms.dtype).tiny)).mean()


class ActivityPerturbation(Perturbation):
    """One coefficient a sample in the space of h_j, then one vector-Jacobian product of the block (Eq. 5)."""

    def __call__(
        self, passes: Sequence[BlockPass], targets: Sequence[TargetGradient], guess: Guess, *, cosine: bool = False
    ) -> Iterator[Estimate]:
        """See ``Perturbation``."""
        for here, target in zip(passes, targets):
            direction = guess.activity(here)
            t, g = _rows(target.activity), _rows(direction)  # (batch, features)
            product, square = torch.linalg.vecdot(t, g), torch.linalg.vecdot(g, g)  # (batch,)
            estimate = guess.coefficient(product, square).unsqueeze(1) * g
            yield Estimate(
                here.to_parameters(estimate.view_as(direction).to(direction.dtype)),
                _row_cosine(product, t, square) if cosine else None,
            )


class ActivitySpanPerturbation(Perturbation):
    """Each sample's target projected orthogonally on the span of the whole batch's guesses (Sec. 4.4, Table 6).

    With the guesses as rows of G ``(batch, features)`` and the targets as rows of T, the projection is
    T G^T (G G^T)^+ G. A batch-normalised auxiliary makes the guesses of a batch sum to about zero, so the Gram matrix
    G G^T is singular; its pseudo-inverse drops the eigenvalues under ``batch * machine epsilon`` of the largest.
    """

    def __call__(
        self, passes: Sequence[BlockPass], targets: Sequence[TargetGradient], guess: Guess, *, cosine: bool = False
    ) -> Iterator[Estimate]:
        """See ``Perturbation``."""
        for here, target in zip(passes, targets):
            direction = guess.activity(here)
            t, g = _rows(target.activity), _rows(direction)  # (batch, features)
            estimate = project_on_span(t, g)
            similarity = None
            if cosine:
                similarity = _row_cosine(torch.linalg.vecdot(t, g), t, torch.linalg.vecdot(g, g))
            yield Estimate(here.to_parameters(estimate.view_as(direction).to(direction.dtype)), similarity)


def project_on_span(targets: Tensor, guesses: Tensor) -> Tensor:
    """Orthogonal projection of each row of ``targets`` on the span of the rows of ``guesses``.

    Args:
        targets: ``(rows, features)``.
        guesses: ``(directions, features)``.

    Returns:
        The projections, ``(rows, features)``.
    """
    # Unit rows make the rank cut-off indifferent to how the guesses' lengths differ.
    unit = torch.nn.functional.normalize(guesses, dim=1, eps=torch.finfo(guesses.dtype).tiny)
    gram = (unit @ unit.T).double()
    eigenvalues, eigenvectors = torch.linalg.eigh(gram)
    cutoff = len(guesses) * torch.finfo(guesses.dtype).eps * eigenvalues[-1]
    kept = eigenvalues > cutoff
    inverse = torch.where(kept, eigenvalues, torch.inf).reciprocal()
    coefficients = (targets @ unit.T).double() @ (eigenvectors * inverse) @ eigenvectors.T  # (rows, directions)
    return coefficients.to(unit.dtype) @ unit


class WeightPerturbation(Perturbation):
    """The batch gradient with respect to theta_j projected on the guess in the same space (Eq. 4).

    One coefficient stands for a parameter ``tensor`` (as in the paper's code), a ``block`` (all of theta_j, Eq. 4 read
    literally) or the whole ``network`` (Baydin et al. 2022).
    """

    granularities = ("tensor", "block", "network")
    weight_target = True

    def __call__(
        self, passes: Sequence[BlockPass], targets: Sequence[TargetGradient], guess: Guess, *, cosine: bool = False
    ) -> Iterator[Estimate]:
        """See ``Perturbation``; the cosine is the mean over parameter tensors."""
        blocks = list(zip(passes, targets))
        # Only one coefficient for the network needs all blocks' guesses at once.
        for group in [blocks] if self.granularity == "network" else [[block] for block in blocks]:
            guesses = [guess.weight(here) for here, _ in group]
            if not any(guesses):
                yield from (Estimate([]) for _ in group)
                continue
            products = [_products(target.weight, g) for (_, target), g in zip(group, guesses)]
            squares = [_products(g, g) for g in guesses]
            if self.granularity == "tensor":
                coefficients = [guess.coefficient(p, s) for p, s in zip(products, squares)]
            else:
                shared = guess.coefficient(torch.cat(products).sum(), torch.cat(squares).sum())
                coefficients = [shared.expand_as(p) for p in products]
            for (_, target), g, c, product, square in zip(group, guesses, coefficients, products, squares):
                similarity = None
                if cosine and g:
                    norms = (_products(target.weight, target.weight) * square).sqrt()
                    similarity = (product / norms.clamp_min(torch.finfo(norms.dtype).tiny)).mean()
                yield Estimate(list(torch._foreach_mul(g, list(c.unbind()))), similarity)


def _products(left: Sequence[Tensor], right: Sequence[Tensor]) -> Tensor:
    """Inner products of two lists of tensors, pair by pair: ``(tensors,)``."""
    return torch.stack([torch.dot(a.flatten(), b.flatten()) for a, b in zip(left, right)])
