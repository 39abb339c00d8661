"""Forward mode: directional derivatives of the target, without a backward pass through the network."""

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn

from fglight.estimators.buffers import Buffers
from fglight.estimators.diagnosis import check_deterministic
from fglight.estimators.duals import TANGENTS, plain_attention, pushforward, pushforward_all, shares
from fglight.estimators.engines.directional import DirectionalEngine, DirectionalStep, run_on_graph
from fglight.estimators.graph import Graph
from fglight.estimators.guesses.base import Guess
from fglight.estimators.inspection import Again
from fglight.estimators.parameters import dense, without_row
from fglight.estimators.passes import BlockPass, NetworkPass
from fglight.estimators.perturbations.base import Perturbation
from fglight.estimators.perturbations.estimate import BlockDerivative
from fglight.estimators.step import GRADIENT_ALONE
from fglight.models.blocks import Block


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
    remedy = "accepted are operations with a forward-mode derivative, or engine=reverse"

    def check_network(self, blocks: Sequence[Block], images: Tensor, guess: Guess, perturbation: Perturbation) -> None:
        """See ``Engine``: bodies that draw random numbers, and what an inspection finds."""
        check_deterministic(blocks)
        super().check_network(blocks, images, guess, perturbation)

    @staticmethod
    @plain_attention()
    def compare(body: nn.Module, x: Tensor, output: Tensor, parameters: list[nn.Parameter], again: Again) -> str:
        """See ``DirectionalEngine``: ⟨c, Jξ⟩ must be ⟨Jᵀc, ξ⟩ for ξ random and c near Jξ."""
        moving = {name: torch.randn_like(p) for name, p in body.named_parameters() if any(p is q for q in parameters)}
        for parameter, row in Graph.of(output).padding():
            moving |= {
                name: without_row(moving[name], p.dim(), row)
                for name, p in body.named_parameters()
                if p is parameter and name in moving
            }
        start = torch.randn_like(x) if x.requires_grad else None
        if start is None and not moving:
            return ""
        with torch.no_grad(), again():
            tangent = pushforward(body, x.detach(), start, moving)[1]
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

    def check_compiled(self, guess: Guess, perturbation: Perturbation) -> None:
        """See ``Engine``.

        Raises:
            ValueError: where directions are drawn a second time, which a record cannot tell from a first time.
        """
        if guess.draws and perturbation.draws_twice and perturbation.uses_target(guess):
            raise ValueError(
                "compile=true cannot go with engine=forward and random directions of every sample's weights: "
                "accepted is compile=false, engine=reverse or another guess"
            )

    @torch.no_grad()
    @plain_attention()
    def estimate(
        self, network: NetworkPass, guess: Guess, perturbation: Perturbation, *, cosine: bool
    ) -> tuple[list[BlockPass], Tensor | None]:
        """See ``Engine``."""
        network.padding = self.inspection.padding
        step = _ForwardStep(network, guess, perturbation)
        return (step.in_one_run() if perturbation.in_one_run else step.in_two_runs()), None

    @torch.no_grad()
    @plain_attention()
    def differentiate(self, body: nn.Module, x: Tensor, *, last: bool, crossed: bool, parameters: bool) -> None:
        """See ``Engine``: push tangents through it, one and several, unless it is the last."""
        if last:
            return super().differentiate(body, x, last=last, crossed=crossed, parameters=parameters)
        buffers = Buffers([body])
        self.run_on_graph(body, x, crossed=crossed)  # which buffers it moves tells how many tangents it takes at once
        again = partial(buffers.again, body)
        for count in (1, 2):
            moves = {name: torch.ones_like(p).expand(count, *p.shape) for name, p in body.named_parameters()}
            if moves and parameters:
                pushforward_all(body, x, moves, again)
            if crossed and x.is_floating_point():
                pushforward_all(body, x, torch.ones_like(x).expand(count, *x.shape), again)


class _ForwardStep(DirectionalStep):
    """One step in forward mode."""

    def in_one_run(self) -> list[BlockPass]:
        """Carry tangents from block to block; the directions they are along are kept, and become the gradients."""
        aims = self.perturbation.uses_target(self.guess)
        guesses: dict[int, Sequence[Tensor]] = {}
        moving: dict[int, Tensor] = {}  # tangents at the current output, (count, batch, ...), by the block they are of
        sums: dict[int, Tensor] = {}

        def run(here: BlockPass) -> None:
            index = here.index
            if self.guess.needs_graph:  # others run together with their tangents
                run_on_graph(here)
            guesses[index] = self.perturbation.guesses(here, self.guess)
            if here.output is None and not (aims and (self.joint or here.parameters)):
                here.run()  # nothing of its own moves
            if not aims:
                return
            moves = self.perturbation.moves(here, guesses[index], self.guess)
            if self.joint:
                moving[0] = _push(here, moves, moving.get(0))
                return
            own = {index: _push(here, moves)} if here.parameters else {}
            if moving:
                pushed = pushforward_all(here.block.body, here.input, torch.cat(list(moving.values())), here.again)[1]
                moving.update(zip(moving, pushed.split([len(tangents) for tangents in moving.values()])))
            moving.update(own)
            for j in [j for j in moving if self.network.losses[j] == index]:
                sums[j] = shares(moving.pop(j), here.local_gradient).sum(1)

        passes = self.run_twice(lambda here, _: run(here)) if self.guess.needs_error else self.run(run)
        sums |= {index: shares(tangents, passes[-1].input_gradient).sum(1) for index, tangents in moving.items()}
        self.scale(passes, guesses, sums)
        return passes

    def in_two_runs(self) -> list[BlockPass]:
        """One run for the loss, and another one that takes one block's derivatives at a time."""

        def run(here: BlockPass, passes: Sequence[BlockPass]) -> None:
            (run_on_graph if self.perturbation.reuses_graph(self.guess) else BlockPass.run)(here)
            if here.parameters:
                here.take(self.perturbation.estimate_forward(here, self._derivative(here, passes), self.guess))

        return self.run_twice(run)

    def _derivative(self, here: BlockPass, passes: Sequence[BlockPass]) -> BlockDerivative:
        """What takes derivatives of the target of one block along tangents of its output."""
        x, loss = here.output.detach(), self.network.losses[here.index]
        rest = passes[here.index + 1 : -1][: loss - here.index]
        if loss == here.index:
            gradient = here.local_gradient
        elif loss == len(self.network.losses):
            gradient = passes[-1].input_gradient
        else:
            gradient = self._local_gradient(x, rest)

        def derivative(tangents: Tensor) -> Tensor:
            products = []
            for moving in tangents.split(TANGENTS):
                output = x
                for later in rest:
                    output, moving = pushforward_all(later.block.body, output, moving, later.again)
                products.append(shares(moving, gradient))
            return torch.cat(products)

        return derivative

    def _local_gradient(self, x: Tensor, passes: Sequence[BlockPass]) -> Tensor:
        """The gradient of the last of several blocks' local loss with respect to its output."""
        for here in passes:
            with here.again():
                x = here.block.body(x)
        with self.network.buffers.again(here.block.aux):
            return self.network.local_loss(here.block, x, GRADIENT_ALONE).gradient


def _push(here: BlockPass, moves: Sequence[dict[str, Tensor]], carried: Tensor | None = None) -> Tensor:
    """How a block's output moves along several directions, ``(count, batch, ...)``; it runs if it has not yet.

    Args:
        here: the block.
        moves: of its parameters by their names, for each direction.
        carried: tangents of its input that go with them, ``(count, batch, ...)``.
    """
    tangents = []
    for m, move in enumerate(moves):
        start = (here.block.body, here.input, None if carried is None else carried[m], move)
        if here.output is None:
            here.output, tangent = pushforward(*start)
        else:
            with here.again():
                tangent = pushforward(*start)[1]
        tangents.append(tangent)
    return torch.stack(tangents)
