"""Reverse mode: one forward pass, and vector-Jacobian products within one block at a time."""

from collections.abc import Iterable, Iterator, Sequence
from functools import partial

import torch
from torch import Tensor

from fglight.estimators.engines.base import Engine
from fglight.estimators.guesses.base import Guess
from fglight.estimators.passes import BlockPass, NetworkPass
from fglight.estimators.perturbations.base import Perturbation
from fglight.estimators.perturbations.estimate import Points, TargetGradient
from fglight.models.blocks import trainable


class ReverseMode(Engine):
    """Takes the target block by block from the last one down, and projects it on the guess (Eq. 1)."""

    name = "engine=reverse"
    remedy = "accepted are operations with a gradient by torch.autograd.grad"

    @torch.enable_grad()
    def estimate(
        self, network: NetworkPass, guess: Guess, perturbation: Perturbation, *, cosine: bool
    ) -> tuple[list[BlockPass], Tensor | None]:
        """See ``Engine``."""
        aims = guess.trains_blocks and (cosine or perturbation.uses_target(guess))
        passes = _run(network, guess, perturbation, network.losses if aims else ())
        targets: Iterable[tuple[BlockPass, TargetGradient]] = ((here, None) for here in reversed(passes[:-1]))
        if aims:
            points = partial(perturbation.points, guess=guess, cosine=cosine)
            targets = sweep(passes, points, keep=perturbation.reuses_graph(guess))
        cosines = passes[-1].local.loss.new_full((len(passes) - 1,), torch.nan)
        for here, estimate in perturbation(targets, guess, cosine=cosine):
            here.take(estimate.gradients)
            if estimate.cosine is not None:
                cosines[here.index] = estimate.cosine
            if not guess.needs_next_block:
                here.release()
        for here in passes:
            here.release()
        return passes, cosines if cosine and guess.projects else None


def sweep(passes: Sequence[BlockPass], points: Points, *, keep: bool) -> Iterator[tuple[BlockPass, TargetGradient]]:
    """The targets of blocks J-2 down to 0, each computed when it is asked for.

    One sweep of vector-Jacobian products from h_j to x_j = h_{j-1} and on, with a cotangent for each loss that a block
    further down follows.

    Args:
        passes: all J blocks of one forward pass.
        points: where inside a block its target is wanted besides its output.
        keep: whether a block's graph is needed after its target was taken.
    """
    losses = passes[-1].network.losses
    cotangents = {len(losses): passes[-1].input_gradient}  # of each loss, at h_j
    for here in reversed(passes[:-1]):
        j, own = here.index, losses[here.index]
        below = {loss for loss in losses[:j] if loss >= j}
        if j in below or j == own:
            cotangents[j] = here.local_gradient
        # What blocks below follow besides goes first, while this block's graph is there.
        crossing = {loss: here.vjp(cotangents[loss], [here.input])[0] for loss in below - {own}}
        output = cotangents.pop(own)
        gradients = here.vjp(output, [*([here.input] if own in below else []), *points(here)], keep=keep)
        if own in below:
            crossing[own] = gradients.pop(0)
        # Nothing else holds what the perturbation lets go of.
        target, cotangents = TargetGradient(output, gradients), crossing
        del output, crossing
        yield here, target


def _run(network: NetworkPass, guess: Guess, perturbation: Perturbation, losses: Sequence[int]) -> list[BlockPass]:
    """Run every block once, each on its own graph; the last one's exact gradients are taken on the way.

    Args:
        network: the network.
        guess: whether blocks need to know the next one.
        perturbation: the space in which directions are drawn.
        losses: for each of blocks 0..J-2 the block whose loss's gradient will be asked for; empty for none.
    """
    passes: list[BlockPass] = []
    hidden = network.batch.images
    for index, block in enumerate(network.blocks):
        # The error is the gradient at the logits, which have one where something below them does.
        error = guess.needs_error and block is network.blocks[-1] and not trainable(block)
        crossed = guess.needs_next_block or error or any(loss >= index for loss in losses[:index])
        here = network.enter(index, hidden.detach().requires_grad_(crossed and index > 0))
        with torch.set_grad_enabled(bool(here.parameters) or here.input.requires_grad):
            here.run()
        if passes and guess.needs_next_block:
            passes[-1].next = here
        passes.append(here)
        hidden = here.output
        if here.parameters and index < len(network.blocks) - 1 and perturbation.draws_early(guess):
            here.directions = perturbation.directions(here, guess)
    here.finish()
    return passes
