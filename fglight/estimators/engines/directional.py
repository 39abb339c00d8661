"""What engines share that know a target by its derivatives along directions alone."""

from abc import abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial, reduce
from operator import add
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from fglight.autodiff.buffers import Buffers
from fglight.autodiff.inspection import Inspection, inspect, try_body
from fglight.autodiff.jvp import Again, plain_attention
from fglight.autodiff.local_loss import Auxiliaries
from fglight.autodiff.passes import BlockPass, NetworkPass
from fglight.autodiff.state import State
from fglight.estimators.engines.base import Engine, Products
from fglight.estimators.guesses.base import Guess
from fglight.estimators.spaces.base import Perturbation
from fglight.estimators.spaces.parts import Part
from fglight.models.blocks import Block, trainable


class DirectionalEngine(Engine):
    """Takes inner products with the target as its derivatives along directions."""

    has_targets = False
    known: tuple[tuple, State, Inspection] | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Copies know no network."""
        return {name: value for name, value in vars(self).items() if name != "known"}

    @contextmanager
    def context(self) -> Iterator[None]:
        """See ``Engine``: without gradients, but for what asks for them."""
        with torch.no_grad(), plain_attention():
            yield

    @staticmethod
    @abstractmethod
    def compare(body: nn.Module, x: Tensor, output: Tensor, parameters: list[nn.Parameter], again: Again) -> str:
        """Why this engine's derivatives of a body would not be autograd's; see ``inspection.Compare``."""

    @plain_attention()
    def check_network(self, blocks: Sequence[Block], images: Tensor, guess: Guess, space: Perturbation) -> None:
        """See ``Engine``: bodies are inspected before the first step, and when the network has changed."""
        kind = (*blocks, space.in_parameters, guess.is_gradient)
        if self.known is None or self.known[0] != kind or not self.known[1].is_unchanged():
            found = inspect(
                blocks, images, self.compare, name=self.name, moves=space.in_parameters, pulled=guess.is_gradient
            )
            self.known = kind, State(blocks, tuple), found

    @torch.no_grad()
    @plain_attention()
    def differentiate(self, body: nn.Module, x: Tensor, *, last: bool, crossed: bool, parameters: bool) -> None:
        """See ``Engine``: as an inspection does, too, unless it is the last."""
        super().differentiate(body, x, last=last, crossed=crossed, parameters=parameters)
        if not last:
            moving, again = trainable(body) if parameters else [], partial(Buffers([body]).again, body)
            try_body(body, x, int(crossed), moving, again, self.compare, Inspection(), pulled=False)

    @property
    def inspection(self) -> Inspection:
        """What was found out about the network."""
        assert self.known is not None
        return self.known[2]

    def check(self, guess: Guess, space: Perturbation) -> None:
        """See ``Engine``: a guess needs a direction and does without the next block, a coefficient without |t|."""
        if not guess.projects:
            raise ValueError(f"{self.name} needs a direction, {type(guess).__name__} has none: use engine=reverse")
        coefficient = space.coefficient_of(guess)
        if coefficient.uses_targets:
            raise ValueError(
                f"perturb.coefficient must do without the target's length with {self.name}, got {coefficient.name}: "
                "use engine=reverse"
            )
        if "next" in guess.needs:
            raise ValueError(
                f"{self.name} is not possible with {type(guess).__name__}, which needs the next block before that "
                "has run: use engine=reverse"
            )


@dataclass
class Move(Iterable[tuple[str, Tensor]]):
    """How parameters of a body move along one direction: their names with tensors of their shapes.

    Attributes:
        names: of the parameters.
        parts: their directions, which may be drawn each time that they are asked for.
        m: which of several directions.
    """

    names: Sequence[str]
    parts: Iterable[Part]
    m: int

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        for name, part in zip(self.names, self.parts):
            yield name, part.move(self.m)


@dataclass
class DirectionalStep:
    """One step of such an engine; blocks run one after the other, and none but the last takes part in another's graph.

    Attributes:
        network: before any block has run; its ``losses`` are those whose derivatives are taken.
        guess: the directions.
        space: of the projection.
        parts: the directions of each block by its index, until they are used.
        sums: inner products of target and directions by block, in the order of ``moves``; of a ``joint`` step the first
            block has them all. Empty where no coefficient needs them.
        meets_gradient: whether derivatives of L are taken by its gradient with respect to the last block's input.
    """

    meets_gradient: ClassVar[bool] = False

    network: NetworkPass
    guess: Guess
    space: Perturbation
    parts: dict[int, Iterable[Part]] = field(default_factory=dict)
    sums: dict[int, Tensor] = field(default_factory=dict)

    @property
    def aims(self) -> bool:
        """Whether derivatives are taken at all."""
        return self.space.uses_target(self.guess)

    @property
    def joint(self) -> bool:
        """Whether all blocks move at once, along a single direction of them all."""
        return self.space.units.joins_blocks and set(self.network.losses) <= {len(self.network.losses)}

    def ask(self, block_pass: BlockPass) -> Sequence[Part]:
        """The directions of a block, which runs for them where they depend on what it gives out."""
        if not block_pass.has_run and (self.guess.pulled or self.space.by_sample):
            with torch.set_grad_enabled(bool(block_pass.parameters)):
                block_pass.run()
        parts = [*self.space.directions(block_pass, self.guess)] if block_pass.parameters else []
        if block_pass.has_run and not any(part.on_graph for part in parts):
            block_pass.let_go()
        return parts

    def walk(self, auxiliaries: Auxiliaries | None = None) -> Iterator[BlockPass]:
        """Blocks 0..J-2, each of which has to run before the next is asked for, and the last with its exact gradients.

        Of a network that has run, blocks run again: ``network.passes`` and all that was trained stay.

        Args:
            auxiliaries: what is wanted of auxiliary networks the first time, where it is not what the step wants.
        """
        network, again = self.network, bool(self.network.passes)
        wanted = replace(network.auxiliaries, trained=False) if again else auxiliaries
        hidden, passes = network.batch.images, list[BlockPass]()
        for index, block in enumerate(network.blocks[:-1]):
            block_pass = network.enter(index, hidden.detach(), wanted)
            with network.buffers.again(block) if again else nullcontext():
                yield block_pass
                hidden = block_pass.output
                block_pass.release()
            passes.append(block_pass)
        if again:
            return
        moved = any(block_pass.parameters for block_pass in passes)
        crossed = moved and ((self.aims and self.meets_gradient) or "error" in self.guess.needs)
        last = network.enter(len(passes), hidden.detach().requires_grad_(crossed))
        with torch.enable_grad():
            last.run()
            last.finish()
        network.passes = [*passes, last]

    def run(self) -> None:
        """Run all blocks for the loss alone."""
        for block_pass in self.walk(replace(self.network.auxiliaries, differentiated=False)):
            block_pass.run()

    def products(self) -> Iterator[Products]:
        """Directions of weights with ``sums``: of each block, or of all where they are one unit."""
        groups = [[index] for index, parts in self.parts.items() if parts]
        if self.space.units.joins_blocks and groups:
            groups = [[index for group in groups for index in group]]
        for group in groups:
            parts = reduce(add, (self.parts.pop(index) for index in group))
            products = None
            if self.sums:
                known = self.sums.values() if self.space.units.joins_blocks else [self.sums[group[0]]]
                total = torch.stack(list(known)).sum(0)
                k = self.guess.count(self.network.blocks[group[0]])
                products = [*total.view(-1, 1, 1, k)]
            yield parts, products, None

    def moves(self, block_pass: BlockPass, parts: Iterable[Part]) -> list[Move]:
        """What moves along each direction of a block's weights: of each tensor, or of all that are one unit."""
        names, counts = block_pass.names, range(self.guess.count(block_pass.block))
        if self.space.units.joins_tensors:
            return [Move(names, parts, m) for m in counts]
        return [Move([name], [part], m) for name, part in zip(names, parts) for m in counts]
