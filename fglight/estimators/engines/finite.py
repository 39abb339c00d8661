"""Finite differences: directional derivatives of the target from forward passes alone."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor, nn

from fglight.autodiff.inspection import Inspection, gradients_are_derivatives
from fglight.autodiff.jvp import Again, check_swapped
from fglight.autodiff.parameters import replaced
from fglight.autodiff.passes import BlockPass, NetworkPass
from fglight.autodiff.rng import Redrawn, generators_kept
from fglight.errors import BlockError
from fglight.estimators.engines.base import Products
from fglight.estimators.engines.directional import DirectionalEngine, DirectionalStep, Move
from fglight.estimators.guesses.base import Guess
from fglight.estimators.spaces.base import Perturbation
from fglight.estimators.spaces.parts import Part
from fglight.models.blocks import Block
from fglight.models.tied import are_tied

Moves = Callable[[int], Move | None]
"""The directions that blocks move along, by their indices; None for those that do not."""


class FiniteDifferences(DirectionalEngine):
    """Takes inner products with the target as central differences of its loss, (L(θ + εg) - L(θ - εg)) / 2ε.

    This is SPSA (Spall 1992), and with a gaussian guess and one coefficient for the network MeZO (Malladi et al. 2023,
    arXiv 2305.17333). Two forward passes give a derivative, from the block that moves to where the target has its loss.
    They keep nothing, and so a step takes the memory of inference and of the directions, beside the last block's exact
    gradient. A guess from an auxiliary network takes the graph of one block besides.

    Without ``redraw`` θ stays as it is: a body that moves runs with other tensors in the place of its parameters. Both
    passes draw the same random numbers. ``cosine`` has no effect.

    Args:
        step: how far weights move, as a fraction of their own length: ε = step · |θ| / |g| over the tensors that move
            together, with |θ|² = Σ_i max(|θ_i|², r_i) and r_i the rows of tensor i. So the weights of an output count
            as of length one at least, and biases that are zero have a scale. It is Dennis and Schnabel's rule (1983,
            Sec. 5.6) for typical values of 1/√fan-in. The difference has an error of O(ε²), about √ε where kinks as of
            ReLU lie within; rounding adds O(u/ε), with machine epsilon u. None: √u, of the coarsest dtype that the
            network has or autocast gives it (3e-4 in float32, 1.5e-8 in float64, 0.09 in bfloat16). It lies between
            u^(1/3), where ε² and u/ε are alike (Press et al., Numerical Recipes, Sec. 5.7), and u^(2/3), where √ε and
            u/ε are; docs/figures/finite_step.png shows them.
        redraw: whether directions are drawn again from the state of the generator each time that they are needed, one
            tensor after the other, instead of being kept, and weights move where they lie (as in MeZO); for random
            guesses. Moving them back leaves rounding errors.

    Attributes:
        derivatives: what the last step found, by the first of the blocks that moved.
        given: the same of a step that is taken again, which moves nothing to find out; None: it is found out.
    """

    name = "engine=finite"
    remedy = "use layers that run on other tensors in the place of their parameters, or engine=reverse"

    def __init__(self, step: float | None = None, redraw: bool = False) -> None:
        self.step = step
        self.redraw = redraw
        self.derivatives: dict[int, Tensor] = {}
        self.given: dict[int, Tensor] | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Copies know no step."""
        return {**super().__getstate__(), "derivatives": {}, "given": None}

    def check(self, guess: Guess, space: Perturbation) -> None:
        """See ``Engine``: coefficients stand for a tensor or more, and what is drawn again is random."""
        super().check(guess, space)
        if not space.carries:
            raise ValueError(
                f"perturb.granularity={space.granularity} of {type(space).__name__} is not possible with "
                "engine=finite, which takes two passes for each coefficient: use perturb=weight with "
                "perturb.granularity=tensor, block or network"
            )
        if self.redraw and (not guess.randomness or guess.pulled):
            raise ValueError(
                f"engine.redraw=true is not possible with {type(guess).__name__}, whose directions depend on the "
                "network: use false"
            )

    def check_network(self, blocks: Sequence[Block], images: Tensor, guess: Guess, space: Perturbation) -> None:
        """See ``Engine``; what is moved where it lies, no other block may use."""
        super().check_network(blocks, images, guess, space)
        if self.redraw and are_tied(parameter for block in blocks for parameter in block.parameters()):
            raise BlockError(
                "engine.redraw=true must have parameters that one block uses, and some are tied to another's: use false"
            )

    def check_compiled(self, guess: Guess, space: Perturbation) -> None:
        """See ``Engine``.

        Raises:
            ValueError: always, for a record would draw other random numbers in each pass.
        """
        raise ValueError(
            "compile=true cannot go with engine=finite, whose passes draw the same random numbers twice: use "
            "compile=false or engine=forward"
        )

    def products(self, network: NetworkPass, guess: Guess, space: Perturbation, *, cosine: bool) -> Iterator[Products]:
        """See ``Engine``."""
        network.padding = self.inspection.padding
        step = _FiniteStep(
            network, guess, space, step=self.step, redraw=self.redraw, inspection=self.inspection, known=self.given
        )
        yield from step.differences()
        self.derivatives = step.sums

    @staticmethod
    def compare(body: nn.Module, x: Tensor, output: Tensor, parameters: list[nn.Parameter], again: Again) -> str:
        """See ``DirectionalEngine``; it must run on other tensors."""
        with torch.no_grad(), again(), generators_kept(x.device):
            _run_moved(body, x, (), 0.0)
        return gradients_are_derivatives(body, x, output, parameters, again)


@dataclass
class _FiniteStep(DirectionalStep):
    """One step by finite differences.

    Attributes:
        step: relative to the weights; None: from the precision.
        redraw: whether directions are drawn again.
        inspection: tells whether blocks draw random numbers, so that all must have run before any is moved.
        known: ``sums``, where they are known.
    """

    step: float | None = None
    redraw: bool = False
    inspection: Inspection = field(default_factory=Inspection)
    known: dict[int, Tensor] | None = None
    extents: list[Tensor] = field(default_factory=list)

    @property
    def aims(self) -> bool:
        """Whether derivatives are taken at all."""
        return self.known is None and super().aims

    def differences(self) -> Iterator[Products]:
        """Run all blocks once as they are, and for each coefficient twice from the first block that moves."""
        twice = "error" in self.guess.needs or self.inspection.draws
        if self.joint and not (self.guess.pulled or twice):  # before anything else is held
            passes = [self.network.enter(index, None) for index in range(len(self.network.blocks) - 1)]
            for block_pass in passes:
                self._look(block_pass)
            self._move_jointly(passes)
            self.run()
        else:
            if twice:
                self.run()
            for block_pass in self.walk():
                self._run_block(block_pass)
            self._move_jointly(self.network.passes[:-1])
        if self.known is not None:
            self.sums = self.known
        yield from self.products()

    def _run_block(self, block_pass: BlockPass) -> None:
        """Run a block and, unless all blocks move at once, find the derivatives along its directions."""
        moves = self._look(block_pass)
        if not block_pass.has_run:
            block_pass.run()
        if moves and not self.joint:
            differences = [
                self._difference(block_pass.index, block_pass.input, {block_pass.index: move}.get, extent)
                for move, extent in zip(moves, self.extents.pop())
            ]
            self.sums[block_pass.index] = torch.stack(differences)

    def _look(self, block_pass: BlockPass) -> Sequence[Move]:
        """Find the directions of a block and note their extents; what moves along them, if anything does."""
        if self.redraw and block_pass.parameters:
            self.parts[block_pass.index] = Redrawn(partial(self._draw, block_pass), self.network.batch.images.device)
        else:
            self.parts[block_pass.index] = self.ask(block_pass)
        if not (self.aims and block_pass.parameters):
            return []
        moves = self.moves(block_pass, self.parts[block_pass.index])
        self.extents.append(torch.stack([_extent(block_pass, move) for move in moves]))
        return moves

    def _draw(self, block_pass: BlockPass) -> Iterator[Part]:
        for part in self.space.directions(block_pass, self.guess):
            part.redrawn = True
            yield part
            del part

    def _move_jointly(self, passes: Sequence[BlockPass]) -> None:
        """Where all blocks move at once, find the derivatives along their directions."""
        if not self.extents:
            return

        def move(m: int, index: int) -> Move | None:
            if index == len(passes) or not passes[index].parameters:
                return None
            return self.moves(passes[index], self.parts[index])[m]

        first = next(block_pass.index for block_pass in passes if block_pass.parameters)
        x = self._run(0, first, self.network.batch.images, lambda index: None, torch.zeros(()))
        differences = [
            self._difference(first, x, partial(move, m), extent)
            for m, extent in enumerate(torch.stack(self.extents).sum(0))
        ]
        self.sums[0] = torch.stack(differences)

    def _difference(self, first: int, x: Tensor, moves: Moves, extent: Tensor) -> Tensor:
        """The derivative of the target of block ``first`` as blocks from there on move, a scalar.

        Args:
            first: the first block that moves.
            x: its input.
            moves: of the blocks.
            extent: of the direction, see ``_extent``.
        """
        squared, length = extent
        size = self._relative * torch.where(length > 0, squared / length, 1).sqrt()
        plus, minus = (self._loss(first, x, moves, step) for step in (size, -size))
        slope = (plus.double() - minus.double()) / (2 * size)
        return slope.to(torch.promote_types(plus.dtype, torch.float32))

    def _loss(self, first: int, x: Tensor, moves: Moves, step: Tensor) -> Tensor:
        """The loss that the target of block ``first`` differentiates, with blocks moved by ``step`` times ``moves``."""
        end = self.network.losses[first]
        block = self.network.blocks[end]
        with generators_kept(self.network.batch.images.device):
            x = self._run(first, end + 1, x, moves, step)
            with self.network.buffers.again(block.aux):
                return self.network.batch.loss(block, x)[0]

    def _run(self, first: int, end: int, x: Tensor, moves: Moves, step: Tensor) -> Tensor:
        """The output of block ``end - 1``, of an input of block ``first``, with moves as for ``_loss``."""
        for index in range(first, end):
            body, move = self.network.blocks[index].body, moves(index)
            with self.network.buffers.again(body):
                if move is None:
                    x = body(x)
                elif self.redraw:
                    with _in_place(body, move, step):
                        x = body(x)
                else:
                    x = _run_moved(body, x, move, step)
        return x

    @cached_property
    def _relative(self) -> float:
        """``step``, or the square root of machine epsilon."""
        if self.step is not None:
            return self.step
        device = self.network.batch.images.device.type
        dtypes = {parameter.dtype for block in self.network.blocks for parameter in block.parameters()}
        dtypes |= self.inspection.dtypes  # a body may have an autocast of its own
        if torch.is_autocast_enabled(device):
            dtypes.add(torch.get_autocast_dtype(device))
        return max(torch.finfo(dtype).eps for dtype in dtypes) ** 0.5


def _extent(block_pass: BlockPass, move: Move) -> Tensor:
    """The squared lengths of the parameters that move, outputs counting as one at least, and of the direction, (2,)."""
    parameters = dict(zip(block_pass.names, block_pass.parameters))
    squares = [
        torch.stack([_square(p).clamp_min(len(p) if p.dim() else 1), _square(g)])
        for p, g in ((parameters[name], g) for name, g in move)
    ]
    return torch.stack(squares).sum(0)


def _square(tensor: Tensor) -> Tensor:
    """The squared length in double precision, by parts, of which alone there are copies."""
    parts = tensor.flatten().split(2**17)
    return torch.stack([torch.linalg.vector_norm(part, dtype=torch.float64).square() for part in parts]).sum()


def _run_moved(body: nn.Module, x: Tensor, move: Iterable[tuple[str, Tensor]], step: Tensor | float) -> Tensor:
    """The output of a body whose parameters are ``step`` times ``move`` away from where they are."""
    values = {name: parameter.detach() for name, parameter in body.named_parameters()}
    values |= {name: values[name] + step * g for name, g in move}
    with torch.enable_grad(), replaced(body, values):  # nothing has a graph but a parameter that is not replaced
        output = body(x)
    check_swapped(body, output, "engine=finite")
    return output.detach()


@contextmanager
def _in_place(body: nn.Module, move: Move, step: Tensor) -> Iterator[None]:
    """Have a body's parameters ``step`` times ``move`` away, and bring them back, which leaves rounding errors."""
    parameters = dict(body.named_parameters())
    for name, g in move:
        parameters[name].data.addcmul_(g, step.to(g.dtype))
    try:
        yield
    finally:
        for name, g in move:
            parameters[name].data.addcmul_(g, step.to(g.dtype), value=-1)
