"""Forward mode: directional derivatives of the target, without a backward pass through the network."""

from collections.abc import Callable, Iterator, Sequence
from itertools import chain

import torch
from torch import Tensor, nn

from fglight.autodiff.diagnosis import check_deterministic
from fglight.autodiff.graph import Graph
from fglight.autodiff.jvp import TANGENTS, Again, jvp, jvps, shares
from fglight.autodiff.local_loss import GRADIENT_ALONE
from fglight.autodiff.parameters import dense, without_row
from fglight.autodiff.passes import BlockPass, NetworkPass
from fglight.estimators.engines.base import Products
from fglight.estimators.engines.directional import DirectionalEngine, DirectionalStep, Move
from fglight.estimators.guesses.base import Guess
from fglight.estimators.spaces.base import Perturbation
from fglight.estimators.spaces.parts import Part
from fglight.models.blocks import Block

Derivative = Callable[[Tensor], Tensor]
"""Inner products of a block's target with tangents of its output: takes ``(count, batch, ...)``, gives ``(count,
batch)``, one for every sample."""


class ForwardMode(DirectionalEngine):
    """Takes inner products with the target as what they are, its derivatives along directions (Sec. 3.3).

    Tangents, how the output of a block moves along its directions, are pushed through the later blocks. They meet the
    gradient of the loss where the target has it: at the block's own auxiliary network, the next block's, or the input
    of the last block, all of which take a backward pass of their own anyway. No other backward pass leaves a block, and
    no more than one block's activations are kept.

    Where a coefficient stands for a tensor of weights or more, one run carries all tangents. Finer coefficients, and
    guesses that need the error, take a first run for the loss and a second one; there, a few tangents of one block at a
    time go through the rest where coefficients are finer.

    For ``weight`` the estimates are those of ``ReverseMode``. Where batch norm couples the samples, coefficients for
    every sample are others: forward mode has the derivative of what sample i adds to the loss with *all* samples moving
    along their directions, reverse mode that of the whole loss with sample i moving alone. Over the batch both sum to
    the same.

    Bodies run several times, and must not draw random numbers. ``cosine`` has no effect: forward mode does not know how
    long a target is.
    """

    name = "engine=forward"
    remedy = "use operations with a forward-mode derivative, or engine=reverse"

    def check_network(self, blocks: Sequence[Block], images: Tensor, guess: Guess, space: Perturbation) -> None:
        """See ``Engine``: bodies that draw random numbers, and what an inspection finds."""
        check_deterministic(blocks)
        super().check_network(blocks, images, guess, space)

    @staticmethod
    def compare(body: nn.Module, x: Tensor, output: Tensor, parameters: list[nn.Parameter], again: Again) -> str:
        """See ``DirectionalEngine``: ⟨c, Jξ⟩ must be ⟨Jᵀc, ξ⟩ for ξ random and c near Jξ."""
        moving, padding = {}, dict(Graph.of(output).padding())
        for name, p in body.named_parameters():
            if any(p is q for q in parameters):
                g = torch.randn_like(p)
                moving[name] = without_row(g, p.dim(), padding[p]) if p in padding else g
        start = torch.randn_like(x) if x.requires_grad else None
        if start is None and not moving:
            return ""
        with torch.no_grad(), again():
            tangent = jvp(body, x.detach(), start, moving)[1]
        length = tangent.square().mean().sqrt()
        cotangent = tangent + torch.where(length > 0, length, 1) * torch.randn_like(tangent)  # tangents may be lost
        inputs, directions = ([x], [start]) if start is not None else ([], [])
        with again():
            gradients = torch.autograd.grad(
                output, [*inputs, *parameters], cotangent, allow_unused=True, materialize_grads=True
            )
        terms = [(dense(g) * xi).double() for g, xi in zip(gradients, [*directions, *moving.values()])]
        products = cotangent.double() * tangent.double()
        found, expected = sum(term.sum() for term in terms), products.sum()
        scale = sum(term.abs().sum() for term in terms) + products.abs().sum()
        precision = max(torch.finfo(dtype).eps for dtype in {output.dtype, *Graph.of(output).dtypes()}) ** 0.5
        if (found - expected).abs() > precision * scale:  # not where one of them is not finite
            return "has a forward-mode derivative that is not its gradient (a hook, or a backward pass of its own)"
        return ""

    def products(self, network: NetworkPass, guess: Guess, space: Perturbation, *, cosine: bool) -> Iterator[Products]:
        """See ``Engine``."""
        network.padding = self.inspection.padding
        step = _ForwardStep(network, guess, space)
        return step.in_one_run() if space.carries else step.in_two_runs()


class _ForwardStep(DirectionalStep):
    """One step in forward mode."""

    meets_gradient = True

    def in_one_run(self) -> Iterator[Products]:
        """Carry tangents from block to block; the directions they are along are kept, and become the gradients."""
        moving: dict[int, Tensor] = {}  # tangents at the current output, (count, batch, ...), by the block they are of
        if "error" in self.guess.needs:
            self.run()
        for block_pass in self.walk():
            index = block_pass.index
            parts = self.parts[index] = self.ask(block_pass)  # blocks that have not run for it run with their tangents
            if not block_pass.has_run and not (self.aims and (parts or (self.joint and moving))):
                block_pass.run()  # nothing of its own moves
            if not (self.aims and (parts or moving)):
                continue
            moves = self.moves(block_pass, parts)
            if self.joint:
                moving[0] = _push(block_pass, moves, moving.get(0))
                continue
            own = {index: _push(block_pass, moves)} if parts else {}
            if moving:
                pushed = jvps(
                    block_pass.block.body, block_pass.input, torch.cat(list(moving.values())), block_pass.again
                )[1]
                moving.update(zip(moving, pushed.split([len(tangents) for tangents in moving.values()])))
            moving.update(own)
            for j in [j for j in moving if self.network.losses[j] == index]:
                self.sums[j] = shares(moving.pop(j), block_pass.local_gradient).sum(1)
        last = self.network.passes[-1]
        self.sums |= {index: shares(tangents, last.input_gradient).sum(1) for index, tangents in moving.items()}
        yield from self.products()

    def in_two_runs(self) -> Iterator[Products]:
        """One run for the loss, and another one that takes one block's derivatives at a time."""
        self.run()
        for block_pass in self.walk():
            parts = [*self.ask(block_pass)]
            if not block_pass.has_run:
                block_pass.run()
            products = self._products(parts, self._derivative(block_pass)) if self.aims and parts else None
            groups = [[part] for part in parts] if self.space.by_sample else [parts] * bool(parts)
            for group in groups:
                yield group, None if products is None else [products.pop(0) for _ in group], None

    def _products(self, parts: Sequence[Part], derivative: Derivative) -> list[Tensor]:
        """Inner products of the parts of a block with its target."""
        waiting, rows = [], []
        for tangents in chain(*(part.tangents() for part in parts)):
            waiting.append(tangents)
            if sum(map(len, waiting)) >= TANGENTS:
                rows.append(derivative(torch.cat(waiting)))
                waiting.clear()
        rows += [derivative(torch.cat(waiting))] if waiting else []
        counts = [part.count for part in parts]
        by_part = zip(torch.cat(rows).split([units * k for units, k in counts]), counts)
        if self.space.by_sample:
            return [row.mT.unflatten(1, count) for row, count in by_part]
        return [row.sum(1).view(1, *count) for row, count in by_part]

    def _derivative(self, block_pass: BlockPass) -> Derivative:
        """What takes derivatives of the target of one block along tangents of its output."""
        passes = self.network.passes
        x, loss = block_pass.output.detach(), self.network.losses[block_pass.index]
        rest = passes[block_pass.index + 1 : -1][: loss - block_pass.index]
        if loss == block_pass.index:
            gradient = block_pass.local_gradient
        elif loss == len(self.network.losses):
            gradient = passes[-1].input_gradient
        else:
            gradient = self._local_gradient(x, rest)

        def derivative(tangents: Tensor) -> Tensor:
            products = []
            for moving in tangents.split(TANGENTS):
                output = x
                for later in rest:
                    output, moving = jvps(later.block.body, output, moving, later.again)
                products.append(shares(moving, gradient))
            return torch.cat(products)

        return derivative

    def _local_gradient(self, x: Tensor, passes: Sequence[BlockPass]) -> Tensor:
        """The gradient of the last of several blocks' local loss with respect to its output."""
        for block_pass in passes:
            with block_pass.again():
                x = block_pass.block.body(x)
        with self.network.buffers.again(block_pass.block.aux):
            gradient = self.network.local_loss(block_pass.block, x, GRADIENT_ALONE).gradient
        assert gradient is not None
        return gradient


def _push(block_pass: BlockPass, moves: Sequence[Move], carried: Tensor | None = None) -> Tensor:
    """How a block's output moves along several directions, ``(count, batch, ...)``; it runs if it has not yet.

    Args:
        block_pass: the block.
        moves: of its parameters by their names, for each direction.
        carried: tangents of its input that go with them, ``(count, batch, ...)``.
    """
    tangents = []
    for m, move in enumerate(moves):
        start = (block_pass.block.body, block_pass.input, None if carried is None else carried[m], dict(move))
        if not block_pass.has_run:
            block_pass.output, tangent = jvp(*start)
        else:
            with block_pass.again():
                tangent = jvp(*start)[1]
        tangents.append(tangent)
    return torch.stack(tangents)
