"""Perturbations (Sec. 3.3): the space in which a target is projected on a guess."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fglight.estimators.guesses import Guess, RandomGuess
from fglight.estimators.layers import LayerCall, record_calls, weight_output
from fglight.estimators.passes import BlockPass
from fglight.estimators.targets import TargetGradient

BlockTarget = tuple[BlockPass, TargetGradient]


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

    Raises:
        ValueError: for any other granularity.
    """

    granularities = ("sample",)

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

    def points(self, here: BlockPass, *, cosine: bool) -> Sequence[Tensor | LayerCall]:
        """Where inside a block its target is needed, besides its output."""
        return []

    def reuses_graph(self, guess: Guess) -> bool:
        """Whether a block's graph is needed once its target is known."""
        return True

    @abstractmethod
    def __call__(
        self, targets: Iterable[BlockTarget], guess: Guess, *, cosine: bool = False
    ) -> Iterator[tuple[BlockPass, Estimate]]:
        """The estimates of blocks 0..J-2, in any order.

        Args:
            targets: blocks J-2 down to 0 with their targets.
            guess: where the guesses come from.
            cosine: whether the cosine similarity of guess and target is wanted too.
        """


def in_drawing_order(targets: Iterable[BlockTarget], guess: Guess) -> Iterable[BlockTarget]:
    """Turn the targets around for random guesses, which are drawn from block 0 on; leave them one by one for others."""
    return reversed(list(targets)) if isinstance(guess, RandomGuess) else targets


class Unprojected(Perturbation):
    """No projection: the estimate is the target. What ``guess=exact`` uses, whatever the perturbation."""

    def points(self, here: BlockPass, *, cosine: bool) -> Sequence[Tensor | LayerCall]:
        """See ``Perturbation``."""
        return here.parameters

    def reuses_graph(self, guess: Guess) -> bool:
        """See ``Perturbation``."""
        return False

    def __call__(
        self, targets: Iterable[BlockTarget], guess: Guess, *, cosine: bool = False
    ) -> Iterator[tuple[BlockPass, Estimate]]:
        """See ``Perturbation``; a cosine similarity of one would be no news and is left out."""
        for here, target in targets:
            yield here, Estimate(target.inside)


class ActivityPerturbation(Perturbation):
    """One coefficient a sample in the space of h_j, then one vector-Jacobian product of the block (Eq. 5)."""

    def __call__(
        self, targets: Iterable[BlockTarget], guess: Guess, *, cosine: bool = False
    ) -> Iterator[tuple[BlockPass, Estimate]]:
        """See ``Perturbation``."""
        for here, target in in_drawing_order(targets, guess):
            direction = guess.activity(here)
            t, g = _rows(target.output), _rows(direction)  # (batch, features)
            product, square = torch.linalg.vecdot(t, g), torch.linalg.vecdot(g, g)  # (batch,)
            estimate = self.project(t, g, guess.coefficient(product, square))
            gradients = here.to_parameters(estimate.view_as(direction).to(direction.dtype), keep=False)
            yield here, Estimate(gradients, mean_cosine(product, square, torch.linalg.vecdot(t, t)) if cosine else None)

    def project(self, target: Tensor, direction: Tensor, coefficient: Tensor) -> Tensor:
        """The estimate of the target in the space of h_j.

        Args:
            target: t_i, ``(batch, features)``.
            direction: g_i, ``(batch, features)``.
            coefficient: c_i, ``(batch,)``.

        Returns:
            c_i g_i, ``(batch, features)``.
        """
        return coefficient.unsqueeze(1) * direction


class ActivitySpanPerturbation(ActivityPerturbation):
    """Each sample's target projected orthogonally on the span of the whole batch's guesses (Sec. 4.4, Table 6)."""

    def project(self, target: Tensor, direction: Tensor, coefficient: Tensor) -> Tensor:
        """See ``ActivityPerturbation``; the coefficients of the single guesses play no role."""
        return project_on_span(target, direction)


def project_on_span(targets: Tensor, guesses: Tensor) -> Tensor:
    """Orthogonal projection of each row of ``targets`` on the span of the rows of ``guesses``.

    With targets T and guesses G this is T G^T (G G^T)^+ G. A batch-normalised auxiliary makes the guesses of a batch
    sum to about zero, so the Gram matrix G G^T is singular; its pseudo-inverse drops the eigenvalues under
    ``directions * machine epsilon`` of the largest.

    Args:
        targets: ``(rows, features)``.
        guesses: ``(directions, features)``.

    Returns:
        The projections, ``(rows, features)``.
    """
    # Unit rows make the rank cut-off indifferent to how the guesses' lengths differ.
    unit = nn.functional.normalize(guesses, dim=1, eps=torch.finfo(guesses.dtype).tiny)
    eigenvalues, eigenvectors = torch.linalg.eigh((unit @ unit.T).double())
    cutoff = len(guesses) * torch.finfo(guesses.dtype).eps * eigenvalues[-1]
    inverse = torch.where(eigenvalues > cutoff, eigenvalues, torch.inf).reciprocal()
    coefficients = (targets @ unit.T).double() @ (eigenvectors * inverse) @ eigenvectors.T  # (rows, directions)
    return coefficients.to(unit.dtype) @ unit


class WeightPerturbation(Perturbation):
    """The batch gradient with respect to theta_j projected on the guess in the same space (Eq. 4).

    One coefficient stands for a parameter ``tensor`` (as in the paper's code), a ``block`` (all of theta_j, Eq. 4 read
    literally) or the whole ``network`` (Baydin et al. 2022).

    The target enters through its inner product with the guess alone, and so the gradients of convolution and linear
    weights are never computed: with cotangent d at the layer's output and guess g, <t, g> = <d, layer(x; g)>, a forward
    pass of the layer with the guess for a weight (its Jacobian-vector product).
    """

    granularities = ("tensor", "block", "network")

    def recording(self, body: nn.Module) -> AbstractContextManager[list[LayerCall]]:
        """Record what the layers take in while a block runs."""
        return record_calls(body)

    def points(self, here: BlockPass, *, cosine: bool) -> Sequence[Tensor | LayerCall]:
        """See ``Perturbation``; the norm of a target, for the cosine, takes the gradient itself."""
        products = {} if cosine else here.weight_calls
        return [products.get(p, p) for p in here.parameters]

    def reuses_graph(self, guess: Guess) -> bool:
        """See ``Perturbation``."""
        return guess.uses_auxiliaries

    def __call__(
        self, targets: Iterable[BlockTarget], guess: Guess, *, cosine: bool = False
    ) -> Iterator[tuple[BlockPass, Estimate]]:
        """See ``Perturbation``; the cosine is the mean over parameter tensors."""
        targets = ((here, target) for here, target in in_drawing_order(targets, guess) if here.parameters)
        # Only one coefficient for the network needs all blocks' guesses at once.
        for group in filter(None, [list(targets)] if self.granularity == "network" else ([b] for b in targets)):
            guesses = [guess.weight(here) for here, _ in group]
            products = [
                _products(here, target, g, explicit=cosine) for (here, target), g in zip(group, guesses)
            ]  # each (tensors,)
            squares = [_squares(g) for g in guesses]
            if self.granularity == "tensor":
                coefficients = [guess.coefficient(p, s) for p, s in zip(products, squares)]
            else:
                shared = guess.coefficient(torch.cat(products).sum(), torch.cat(squares).sum())
                coefficients = [shared.expand_as(p) for p in products]
            for (here, target), g, c, product, square in zip(group, guesses, coefficients, products, squares):
                similarity = mean_cosine(product, square, _squares(target.inside)) if cosine else None
                yield here, Estimate(list(torch._foreach_mul(g, list(c.unbind()))), similarity)


def _products(here: BlockPass, target: TargetGradient, guess: list[Tensor], *, explicit: bool) -> Tensor:
    """<t, g> of each parameter tensor, ``(tensors,)``, from what ``WeightPerturbation.points`` asked for."""
    calls = {} if explicit else here.weight_calls
    images = [weight_output(calls[p], g) if p in calls else g for p, g in zip(here.parameters, guess)]
    return torch.stack([torch.dot(t.flatten(), image.flatten()) for t, image in zip(target.inside, images)]).to(
        guess[0].dtype
    )


def _squares(tensors: Sequence[Tensor]) -> Tensor:
    """Squared norms of several tensors: ``(tensors,)``."""
    return torch.stack([torch.dot(tensor.flatten(), tensor.flatten()) for tensor in tensors])


def _rows(tensor: Tensor) -> Tensor:
    """Flatten to ``(batch, features)``, in at least single precision."""
    rows = tensor.flatten(1)
    return rows.float() if rows.dtype in (torch.float16, torch.bfloat16) else rows


def mean_cosine(products: Tensor, guess_squares: Tensor, target_squares: Tensor) -> Tensor:
    """The mean of <t, g> / (|t| |g|) (Eq. 6 where the mean is over samples), 0 where either is 0.

    Args:
        products: inner products <t, g>, any shape.
        guess_squares: squared norms |g|^2, same shape.
        target_squares: squared norms |t|^2, same shape.
    """
    norms = guess_squares.sqrt() * target_squares.sqrt()
    return (products / norms.clamp_min(torch.finfo(norms.dtype).tiny)).mean()
