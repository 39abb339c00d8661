"""The estimators written out: loops over samples, units and tensors in plain autograd, to be read beside the paper.

Everything here is slow, and nothing of ``fglight.estimators`` is in it but autograd on a whole network. Gradients are
those of means over the batch, so that the factors 1/n of Eqs. 2 to 5 are within the targets t and the directions g.

In each space, targets and directions have one shape, ``(samples, *shape)``: of activities, a sample's row is its own
and ``shape`` that of h_j; of weights, a parameter's gradient is the one sample there is; of every sample's weights,
each parameter has a row for each sample.
"""

from collections.abc import Callable, Sequence
from copy import deepcopy

import torch
import torch.nn.functional as F
from torch import Tensor

from fglight.estimators.definition import WholeNetwork
from fglight.models import Block

EPS = 1e-16
"""Next to squared lengths, so that a direction of length zero gives zero."""

COEFFICIENTS: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "projection": lambda products, squares, _: products / (squares + EPS),
    "inner": lambda products, *_: products,
    "sign": lambda products, *_: products.sign(),
    "positive": lambda products, *_: (
        (products > 0).to(products) * len(products) / (products > 0).to(products).sum().clamp_min(1)
    ),
    "one": lambda products, *_: torch.ones_like(products),
    "constant:0.25": lambda products, *_: torch.full_like(products, 0.25),
    "unit": lambda _, squares, __: torch.tensor([0 if square == 0 else square**-0.5 for square in squares]).to(squares),
    "norm": lambda _, squares, targets: targets.sqrt() * COEFFICIENTS["unit"](_, squares, targets),
    "magnitude": lambda products, squares, _: products.abs() / (squares + EPS),
    "ascent_free": lambda products, squares, _: products.clamp_min(0) / (squares + EPS),
    "stale:1": lambda products, squares, _: products / (squares + EPS),
}
"""c of the products ⟨t_i, g_i⟩ and the squares ‖g_i‖² and ‖t_i‖² of all samples i."""


# Eq. 1: a target and its directions in one unit


def estimate(
    targets: Tensor, guesses: Tensor, coefficient: str = "projection", combine: str = "mean", rescale: bool = False
) -> Tensor:
    """What is estimated of targets ``(samples, features)`` with k directions each, ``(k, samples, features)``."""
    if combine == "span":
        estimates = [on_span(t, guesses[:, i]) for i, t in enumerate(targets)]
        return torch.stack(estimates) * (max(1, targets.shape[1] / len(guesses)) ** 0.5 if rescale else 1)
    by_direction = []
    for g in guesses:
        products = torch.stack([t_i @ g_i for t_i, g_i in zip(targets, g)])
        squares = torch.stack([g_i @ g_i for g_i in g])
        lengths = torch.stack([t_i @ t_i for t_i in targets])
        factors = COEFFICIENTS[coefficient](products, squares, lengths)
        by_direction.append(torch.stack([c * g_i for c, g_i in zip(factors, g)]))
    if combine == "max":
        return torch.stack([by_direction[best_aligned(t, guesses[:, i])][i] for i, t in enumerate(targets)])
    return sum(by_direction) / len(guesses)


def on_span(target: Tensor, guesses: Tensor) -> Tensor:
    """The projection of a vector on the span of others, ``(k, features)``, by least squares."""
    rows = [g / g.norm() for g in guesses if g.any()]  # a short one counts as much as a long one
    if not rows:
        return torch.zeros_like(target)
    basis = torch.stack(rows).T
    return basis @ torch.linalg.lstsq(basis, target.unsqueeze(1), driver="gelsd").solution.squeeze(1)


def best_aligned(target: Tensor, guesses: Tensor) -> int:
    """The first vector of ``(k, features)`` with the largest cosine, up to its sign; in one dimension all are alike."""
    cosines = [float((target @ g).abs() / (g.norm() + EPS)) for g in guesses]
    return next(m for m, cosine in enumerate(cosines) if cosine >= (1 - 1e-8) * max(cosines))


def project(target: Tensor, guess: Tensor) -> Tensor:
    """The projection of one tensor on another of its shape."""
    return estimate(target.reshape(1, -1), guess.reshape(1, 1, -1)).view_as(target)


def units(granularity: str, blocks: Sequence[Sequence[Tensor]]) -> list[list[tuple]]:
    """What has one coefficient: parts of the tensors of blocks, as indices (block, tensor, index into the tensor)."""
    every = slice(None)
    by_block = [[(j, i, (every,)) for i in range(len(tensors))] for j, tensors in enumerate(blocks)]
    tensors = [[part] for parts in by_block for part in parts]
    if granularity in ("network", "block"):
        together = by_block if granularity == "block" else [[part for parts in by_block for part in parts]]
        return [parts for parts in together if parts]
    if granularity in ("filter", "channel"):
        return [
            [(j, i, (every, channel))] if blocks[j][i].dim() > 1 else [(j, i, (every,))]
            for [(j, i, _)] in tensors
            for channel in range(blocks[j][i].shape[1] if blocks[j][i].dim() > 1 else 1)
        ]
    return tensors


class Definition(WholeNetwork):
    """Targets, guesses and estimates of blocks, from one joint graph."""

    def __init__(self, blocks, images: Tensor, labels: Tensor, *, copied: bool = True) -> None:
        blocks = list(getattr(blocks, "blocks", blocks))
        super().__init__(deepcopy(blocks) if copied else blocks, images, labels)  # a copied parameter has no hooks

    # Sec. 3.2: targets

    def loss(self, target, j: int) -> Tensor:
        """The loss that block j follows, by the target's name or by what it says itself."""
        last = len(self.blocks) - 1
        named = {"global": last, "local": j, "intermediate": j + 1}
        return self.losses[named[target] if isinstance(target, str) else target.loss_block(j, last)]

    def weight(self, target, j: int) -> list[Tensor]:
        """Eq. 2: its gradient with respect to every parameter of block j."""
        return self.vjp(j, self.activity(target, j))

    # Sec. 3.1: guesses in the space of h_j

    def local(self, j: int) -> list[Tensor]:
        """The gradient of the block's local loss."""
        return [self.activity("local", j)]

    def by_auxiliary(self, j: int) -> list[Tensor]:
        """The gradient of each of several auxiliary networks' loss."""
        block, h = self.blocks[j], self.outputs[j]
        return [self.gradients(Block(block.body, aux).loss(h, self.labels)[0], [h])[0] for aux in block.aux]

    def error(self) -> Tensor:
        """The gradient of the network's cross-entropy with respect to its logits, ``(batch, classes)``."""
        probabilities = self.blocks[-1].aux(self.outputs[-1]).softmax(1).detach()
        return (probabilities - F.one_hot(self.labels, probabilities.shape[1])) / len(self.labels)

    def dfa(self, j: int) -> list[Tensor]:
        """The error through the block's feedback matrix."""
        rows = [sum(e * row for e, row in zip(error, self._feedback(j))) for error in self.error()]
        return [torch.stack(rows).view_as(self.outputs[j])]

    def drtp(self, j: int) -> list[Tensor]:
        """The row of each sample's label in the block's feedback matrix."""
        return [torch.stack([self._feedback(j)[label] for label in self.labels]).view_as(self.outputs[j])]

    def _feedback(self, j: int) -> Tensor:
        return self.blocks[j].feedback.flatten(1)

    def next_block(self, j: int, noise: Tensor) -> list[Tensor]:
        """A random cotangent of h_{j+1}, pulled back through block j+1."""
        return self.gradients(self.outputs[j + 1], [self.outputs[j]], noise)

    def mixing(self, j: int, noise: Tensor) -> list[Tensor]:
        """A random mixture of the batch's activities, where a sample's own are not zero."""
        h = self.outputs[j].detach()
        mixture = sum(factor * row for factor, row in zip(noise, h))
        return [torch.stack([torch.where(row != 0, mixture, 0) for row in h])]

    # Eqs. 4 and 5: estimates

    def estimates(
        self,
        target="global",
        perturb: str = "weight",
        granularity: str = "tensor",
        guess: Callable[[int], Sequence[Tensor]] | None = None,
        *,
        draw: Callable[[Tensor], Sequence[Tensor]] | None = None,
        around: Callable[[Tensor], Tensor] | None = None,
        coefficient: str = "projection",
        combine: str = "mean",
        rescale: bool = False,
    ) -> list[list[Tensor]]:
        """The estimates of blocks 0..J-2: a tensor for each parameter of each.

        Args:
            target: by name, or anything with ``loss_block``.
            perturb: the space.
            granularity: what has a coefficient of its own.
            guess: the directions of block j in the space of h_j; by default, the local guess.
            draw: the directions of a tensor instead, drawn in the space itself, for blocks and parameters in order.
            around: makes of each direction in the space another one.
            coefficient: see ``COEFFICIENTS``.
            combine: what becomes of several directions.
            rescale: whether a span's projection is made as long as the target is in the mean square.
        """
        js = range(len(self.blocks) - 1)
        targets, drawn = [self._in_space(perturb, j, self.activity(target, j)) for j in js], []
        for j, tensors in enumerate(targets):
            if draw:
                drawn.append([self._drawn(perturb, t, draw) for t in tensors])
            else:
                asked = (guess or self.local)(j) if tensors else []
                by_direction = [self._in_space(perturb, j, g) for g in asked]
                drawn.append([torch.stack(directions) for directions in zip(*by_direction)])
        if around:
            drawn = [[torch.stack([around(g) for g in directions]) for directions in tensors] for tensors in drawn]
        found = [[torch.zeros_like(t) for t in tensors] for tensors in targets]
        for unit in units(granularity, targets):
            t = torch.cat([targets[j][i][part].reshape(len(targets[j][i]), -1) for j, i, part in unit], 1)
            g = torch.cat([drawn[j][i][:, *part].reshape(*drawn[j][i].shape[:2], -1) for j, i, part in unit], 2)
            if perturb == "activity_span":  # all samples' directions are each sample's
                g, combine = g.flatten(0, 1).unsqueeze(1).expand(-1, len(t), -1), "span"
            rest = estimate(t, g, coefficient, combine, rescale)
            for j, i, part in unit:
                here = found[j][i][part]
                size = here[0].numel()
                found[j][i][part] = rest[:, :size].view_as(here)
                rest = rest[:, size:]
        if perturb.startswith("activity"):
            return [self.vjp(j, found[j][0]) if found[j] else [] for j in js]  # Eq. 5
        return [[tensor.sum(0) for tensor in tensors] for tensors in found]  # Eq. 4, for the batch or every sample

    def cosines(self, target="global", perturb: str = "weight") -> Tensor:
        """Eq. 6: the cosine of target and local guess for each of blocks 0..J-2, a mean over samples and tensors."""
        found = []
        for j in range(len(self.blocks) - 1):
            tensors = zip(*(self._in_space(perturb, j, self.activity(name, j)) for name in (target, "local")))
            rows = [(t_i.flatten(), g_i.flatten()) for t, g in tensors for t_i, g_i in zip(t, g)]
            cosines = [t_i @ g_i / (t_i.norm() * g_i.norm()).clamp_min(1e-300) for t_i, g_i in rows]
            found.append(torch.stack(cosines).mean())
        return torch.stack(found)

    def _in_space(self, perturb: str, j: int, cotangent: Tensor) -> list[Tensor]:
        """A cotangent of h_j as tensors ``(samples, *shape)`` in a space; none where nothing is trained."""
        if perturb == "weight":
            return [g.unsqueeze(0) for g in self.vjp(j, cotangent)]
        if perturb == "weight_per_sample":
            return self.rows(j, cotangent)
        return [cotangent] if self.parameters[j] else []

    @staticmethod
    def _drawn(perturb: str, like: Tensor, draw: Callable[[Tensor], Sequence[Tensor]]) -> Tensor:
        """Directions of a tensor, ``(k, samples, *shape)``; of a batch's weights they are drawn without samples."""
        return torch.stack([g.view_as(like) for g in draw(like[0] if perturb == "weight" else like)])
