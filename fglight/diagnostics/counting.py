"""How many directional derivatives a step takes, and how many of them are the exact gradient of a single number."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from torch import Tensor

from fglight.autodiff.buffers import dry_run
from fglight.estimators.estimator import GradientEstimator
from fglight.models.blocks import Block, trainable


@dataclass(frozen=True)
class Derivatives:
    """The directional derivatives of a step in forward mode, all samples at once.

    Attributes:
        taken: how many there are; of steps that take turns, the mean.
        exact: along how many of them a single number moves, a channel with one position or a bias: each is the exact
            gradient there.
    """

    taken: float
    exact: int


def count_derivatives(
    estimator: GradientEstimator, blocks: Sequence[Block], images: Tensor, batch_size: int
) -> Derivatives:
    """Count what a step takes; nothing moves.

    Args:
        estimator: what takes it.
        blocks: the network.
        images: some images, two or more.
        batch_size: how many a step has.
    """
    guess, perturbation = estimator.guess, estimator.perturbation
    coefficient = estimator.coefficient
    if not guess.projects or (coefficient.due and not perturbation.uses_target(guess)):
        return Derivatives(0, 0)
    features = [_features(estimator, tensors) for tensors in _spaces(estimator, blocks, images)]
    if perturbation.units.joins_tensors:
        features = [[sum(block)] for block in features if block]
    if perturbation.units.joins_blocks:
        features = [[sum(total for (total,) in features)]]
    counts = [guess.count(block) for block in blocks[:-1]]
    if perturbation.units.joins_blocks:
        counts = [max(counts, default=0)]
    elif perturbation.units.joins_tensors:
        counts = [count for block, count in zip(blocks, counts) if trainable(block.body)]
    samples = batch_size if perturbation.spans else 1
    taken = sum(samples * count * len(units) for count, units in zip(counts, features, strict=True))
    return Derivatives(taken / coefficient.period, sum(size == 1 for units in features for size in units))


def _features(estimator: GradientEstimator, tensors: Sequence[Tensor]) -> list[int]:
    """How many numbers each unit of some tensors has."""
    split = (estimator.perturbation.units.split(tensor[None, None]) for tensor in tensors)
    return [int(units.shape[-1]) for units in split for _ in range(units.shape[2])]


def _spaces(estimator: GradientEstimator, blocks: Sequence[Block], images: Tensor) -> Iterator[Sequence[Tensor]]:
    """The tensors that each of blocks 0..J-2 moves in: its parameters, or one sample's output."""
    perturbation = estimator.perturbation
    for block, output in zip(blocks[:-1], dry_run(blocks, images)):
        own = trainable(block.body)
        if not own:
            yield []
        else:
            yield own if perturbation.in_parameters else [output[0]]
