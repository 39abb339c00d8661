"""Reverse mode: one forward pass, and vector-Jacobian products within one block at a time."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import chain

import torch
from torch import Tensor

from fglight.autodiff.passes import BlockPass, NetworkPass
from fglight.estimators.engines.base import Engine, Products
from fglight.estimators.guesses.base import Guess
from fglight.estimators.spaces.base import Perturbation
from fglight.estimators.spaces.parts import Part, Point, Targets
from fglight.models.blocks import trainable


class ReverseMode(Engine):
    """Takes the target block by block from the last one down, and projects it on the guess (Eq. 1)."""

    name = "engine=reverse"
    remedy = "use operations with a gradient by torch.autograd.grad"

    def products(self, network: NetworkPass, guess: Guess, space: Perturbation, *, cosine: bool) -> Iterator[Products]:
        """See ``Engine``; blocks come from J-2 down, or from 0 on where directions are drawn as products are taken."""
        aims = space.trains and (cosine or space.uses_target(guess))
        coefficient = space.coefficient_of(guess)
        lengths = cosine or (coefficient.uses_targets and coefficient.due)
        ask = partial(space.directions, guess=guess, cosine=lengths)
        drawn = _run(network, guess, ask, network.losses if aims else ())
        blocks = _sweep(network, lambda one: drawn.pop(one.index) if one.index in drawn else ask(one), aims=aims)
        if guess.randomness and space.in_parameters and space.by_sample:
            blocks = reversed([*blocks])
        joint: list[Products] = []
        for block_pass, parts, targets in blocks:
            while parts:
                group = [parts.pop(0)] if space.by_sample else [*parts]
                parts = parts if space.by_sample else []
                found = _products(group, targets, space, lengths=lengths)
                for point in {*targets} - {part.point for part in parts}:
                    del targets[point]
                if space.units.joins_blocks:
                    joint.append(found)
                else:
                    yield found
            block_pass.release()
        if joint:
            groups, products, squares = zip(*joint)
            yield [*chain(*groups)], _joined(products), _joined(squares)


def _joined(rows: Sequence[Sequence[Tensor] | None]) -> list[Tensor] | None:
    return [tensor for row in rows for tensor in row or ()] or None


def _run(
    network: NetworkPass, guess: Guess, ask: Callable[[BlockPass], Iterable[Part]], losses: Sequence[int]
) -> dict[int, Sequence[Part]]:
    """Run every block once, each on its own graph; the last one's exact gradients are taken on the way.

    Args:
        network: the network.
        guess: whose directions are asked for as soon as what they need is there, where they are drawn or need the next
            block.
        ask: asks for them.
        losses: for each of blocks 0..J-2 the block whose loss's gradient will be asked for; empty for none.

    Returns:
        What was asked for, by the blocks' indices.
    """
    found: dict[int, Sequence[Part]] = {}
    early, after = guess.randomness is not None or "next" in guess.needs, "next" in guess.needs
    hidden, last = network.batch.images, len(network.blocks) - 1

    def have(index: int) -> None:
        if early and 0 <= index < last and network.passes[index].parameters:
            found[index] = [*ask(network.passes[index])]

    for index, block in enumerate(network.blocks):
        # The error is the gradient at the logits, which have one where something below them does.
        error = "error" in guess.needs and index == last and not trainable(block)
        crossed = after or error or (bool(losses) and bool(network.losses_through(index)))
        block_pass = network.enter(index, hidden.detach().requires_grad_(crossed and index > 0))
        with torch.set_grad_enabled(bool(block_pass.parameters) or block_pass.input.requires_grad):
            block_pass.run()
        network.passes.append(block_pass)
        hidden = block_pass.output
        if "error" not in guess.needs:
            have(index - after)
    block_pass.finish()
    for index in range(last if "error" in guess.needs else 0):
        have(index)
    return found


def _sweep(
    network: NetworkPass, ask: Callable[[BlockPass], Iterable[Part]], *, aims: bool
) -> Iterator[tuple[BlockPass, list[Part], dict[Point, Tensor]]]:
    """Blocks J-2 down to 0, with their directions and the targets at the points of those.

    One sweep of vector-Jacobian products from h_j to x_j = h_{j-1} and on, with a cotangent for each loss that a block
    further down follows.

    Args:
        network: all of whose blocks have run.
        ask: gives the directions of a block.
        aims: whether targets are wanted at all; without, there are none.
    """
    *rest, last = network.passes
    losses = network.losses
    cotangents = {len(losses): last.input_gradient}  # of each loss, at h_j
    del last.input_gradient
    last.release()
    for block_pass in reversed(rest):
        parts = [*ask(block_pass)] if block_pass.parameters else []
        if not aims:
            yield block_pass, parts, {}
            continue
        j, own = block_pass.index, losses[block_pass.index]
        below = network.losses_through(j)
        wanted = below | {own} if block_pass.parameters else below
        if j in wanted:
            cotangents[j] = block_pass.local_gradient
        if network.adds_local and wanted:
            cotangents = {loss: cotangent + block_pass.local_gradient for loss, cotangent in cotangents.items()}
        # What blocks below follow besides goes first, while this block's graph is there.
        crossing = {loss: block_pass.vjp(cotangents[loss], [block_pass.input])[0] for loss in below - {own}}
        if own not in wanted:
            cotangents = crossing
            yield block_pass, parts, {}
            continue
        output = cotangents.pop(own)
        points = list(dict.fromkeys(part.point for part in parts if part.point is not None))
        inputs = [block_pass.input] if own in below else []
        gradients = block_pass.vjp(output, [*inputs, *points], keep=any(part.on_graph for part in parts))
        if inputs:
            crossing[own] = gradients.pop(0)
        targets: dict[Point, Tensor] = dict(zip(points, gradients))
        targets[None] = output
        cotangents = crossing
        del output, gradients, crossing  # nothing else holds what the parts let go of
        yield block_pass, parts, targets


def _products(parts: Sequence[Part], targets: Targets, space: Perturbation, *, lengths: bool) -> Products:
    """Inner products of parts with their targets, and |t|² of these."""
    if not targets:
        return parts, None, None
    products = [part.products(targets) for part in parts]
    if lengths and not space.by_sample:  # the target itself is of the whole batch, and so is its length
        exact = [part.parameter for part in parts]
        batch = parts[0].block_pass.network.batch
        targets = dict(zip(exact, batch.sum([targets[parameter] for parameter in exact])))
    return parts, products, [part.squares(targets) for part in parts] if lengths else None
