"""Reverse mode: one forward pass, and vector-Jacobian products within one block at a time."""

from collections.abc import Iterable
from functools import partial

import torch
from torch import Tensor

from fglight.estimators.engines.base import Engine
from fglight.estimators.guesses.base import Guess
from fglight.estimators.passes import BlockPass, NetworkPass
from fglight.estimators.perturbations.base import Perturbation
from fglight.estimators.targets import Target, TargetGradient
from fglight.models.blocks import trainable


class ReverseMode(Engine):
    """Takes the target block by block from the last one down, and projects it on the guess (Eq. 1)."""

    name = "engine=reverse"
    remedy = "accepted are operations with a gradient by torch.autograd.grad"

    @torch.enable_grad()
    def estimate(
        self, network: NetworkPass, target: Target, guess: Guess, perturbation: Perturbation, *, cosine: bool
    ) -> tuple[list[BlockPass], Tensor | None]:
        """See ``Engine``."""
        aims = guess.trains_blocks and (cosine or perturbation.uses_target(guess))
        crosses = guess.needs_next_block or (aims and target.crosses_blocks)
        passes = _run(network, guess, perturbation, crosses=crosses)
        targets: Iterable[tuple[BlockPass, TargetGradient]] = ((here, None) for here in reversed(passes[:-1]))
        if aims:
            points = partial(perturbation.points, guess=guess, cosine=cosine)
            targets = target(passes, points, keep=perturbation.reuses_graph(guess))
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


def _run(network: NetworkPass, guess: Guess, perturbation: Perturbation, *, crosses: bool) -> list[BlockPass]:
    """Run every block once, each on its own graph; the last one's exact gradients are taken on the way.

    Args:
        network: the network.
        guess: whether blocks need to know the next one.
        perturbation: the space in which directions are drawn.
        crosses: whether gradients of blocks' inputs will be asked for.
    """
    passes: list[BlockPass] = []
    hidden = network.batch.images
    for index, block in enumerate(network.blocks):
        # The error is the gradient at the logits, which have one where something below them does.
        crosses = crosses or (guess.needs_error and block is network.blocks[-1] and not trainable(block))
        here = network.enter(index, hidden.detach().requires_grad_(crosses and index > 0))
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
