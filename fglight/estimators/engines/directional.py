"""What engines share that know a target by its derivatives along directions alone."""

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from fglight.estimators.duals import plain_attention
from fglight.estimators.engines.base import Engine
from fglight.estimators.guesses.base import Guess
from fglight.estimators.inspection import Again, Inspection, inspect
from fglight.estimators.passes import BlockPass, NetworkPass
from fglight.estimators.perturbations.base import Perturbation
from fglight.estimators.state import State
from fglight.estimators.step import Auxiliaries
from fglight.models.blocks import Block


class DirectionalEngine(Engine):
    """Takes inner products with the target as its derivatives along directions."""

    has_targets = False
    known: tuple[tuple, State, Inspection] | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Copies know no network."""
        return {name: value for name, value in vars(self).items() if name != "known"}

    @staticmethod
    @abstractmethod
    def compare(body: nn.Module, x: Tensor, output: Tensor, parameters: list[nn.Parameter], again: Again) -> str:
        """Why this engine's derivatives of a body would not be autograd's; see ``inspection.Compare``."""

    @plain_attention()
    def check_network(self, blocks: Sequence[Block], images: Tensor, guess: Guess, perturbation: Perturbation) -> None:
        """See ``Engine``: bodies are inspected before the first step, and when the network has changed."""
        kind = (*blocks, perturbation.in_parameters, guess.pulled)
        if self.known is None or self.known[0] != kind or not self.known[1].is_unchanged():
            found = inspect(
                blocks, images, self.compare, name=self.name, moves=perturbation.in_parameters, pulled=guess.pulled
            )
            self.known = kind, State(blocks, tuple), found

    @property
    def inspection(self) -> Inspection:
        """What was found out about the network."""
        assert self.known is not None
        return self.known[2]

    def check(self, guess: Guess, perturbation: Perturbation) -> None:
        """See ``Engine``: a guess needs a direction, and must do without the next block."""
        if not guess.projects:
            raise ValueError(
                f"{self.name} needs a direction, {type(guess).__name__} has none: accepted is engine=reverse"
            )
        if guess.needs_next_block:
            raise ValueError(
                f"{self.name} is not possible with {type(guess).__name__}, which needs the next block before that "
                "has run: accepted is engine=reverse"
            )


@dataclass
class DirectionalStep:
    """One step of such an engine; blocks run one after the other, and none but the last takes part in another's graph.

    Attributes:
        network: before any block has run; its ``losses`` are those whose derivatives are taken.
        guess: the directions.
        perturbation: makes of directions and derivatives the estimates.
    """

    network: NetworkPass
    guess: Guess
    perturbation: Perturbation

    @property
    def joint(self) -> bool:
        """Whether all blocks move at once, along a single direction of them all."""
        return self.perturbation.units.joins_blocks and set(self.network.losses) <= {len(self.network.losses)}

    def run(self, run: Callable[[BlockPass], None], auxiliaries: Auxiliaries | None = None) -> list[BlockPass]:
        """Run blocks 0..J-2 one after the other as ``run`` does, and the last one with its exact gradients."""
        passes = []
        hidden = self.network.batch.images
        for index in range(len(self.network.blocks) - 1):
            here = self.network.enter(index, hidden.detach(), auxiliaries)
            run(here)
            hidden = here.output
            here.release()
            passes.append(here)
        last = self.network.enter(len(passes), hidden.detach().requires_grad_(len(passes) > 0))
        with torch.enable_grad():
            last.run()
            last.finish()
        return [*passes, last]

    def run_twice(self, run: Callable[[BlockPass, Sequence[BlockPass]], None]) -> list[BlockPass]:
        """Run all blocks for the loss, and blocks 0..J-2 again as ``run`` does, which knows the passes before."""
        passes = self.run(BlockPass.run, replace(self.network.auxiliaries, differentiated=False))
        hidden = self.network.batch.images
        for before in passes[:-1]:
            here = self.network.enter(before.index, hidden.detach(), replace(self.network.auxiliaries, trained=False))
            with self.network.buffers.again(here.block):
                run(here, passes)
                hidden = here.output
                here.release()
        return passes

    def scale(self, passes: Sequence[BlockPass], guesses: dict[int, Sequence[Tensor]], sums: dict[int, Tensor]) -> None:
        """Make directions of weights the estimates.

        Args:
            passes: the blocks.
            guesses: of each block by its index, what ``Perturbation.guesses`` gave; they are used up.
            sums: inner products of target and directions by block and coefficient; of a ``joint`` step the first block
                has them all. None where the coefficient needs none.
        """
        parts = [here for here in passes[:-1] if here.parameters]
        groups = [[here] for here in parts]
        if self.perturbation.units.joins_blocks and parts:
            groups = [parts]
            if sums:
                total = torch.stack(list(sums.values())).sum(0)
                # Of all coefficients there is the sum, and the first has it.
                sums = {here.index: torch.zeros_like(total) for here in parts} | {parts[0].index: total}
        for group in groups:
            known = self.network.batch.sum([sums[here.index] for here in group]) if sums else None
            own = [guesses.pop(here.index) for here in group]
            for here, gradients in zip(group, self.perturbation.from_sums(group, own, known, self.guess)):
                here.take(gradients)


def run_on_graph(here: BlockPass) -> None:
    """Run a block so that directions can be pulled back through it."""
    with torch.set_grad_enabled(bool(here.parameters)):
        here.run()
