"""The same estimates by forward-mode automatic differentiation, without a backward pass through the network."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from fglight.errors import BlockError
from fglight.estimators.batch import Batch
from fglight.estimators.buffers import Buffers
from fglight.estimators.duals import TANGENTS, plain_attention, pushforward_all
from fglight.estimators.engines.compiled import Compiler, inductor
from fglight.estimators.engines.reverse import GradientEstimator, Step
from fglight.estimators.guesses.base import Guess
from fglight.estimators.guesses.exact import ExactGuess
from fglight.estimators.passes import BlockPass, local_loss
from fglight.estimators.perturbations.base import BlockDerivative, Perturbation
from fglight.estimators.perturbations.weight_per_sample import WeightPerSamplePerturbation
from fglight.estimators.targets import Target
from fglight.models.blocks import Block


class ForwardModeEstimator(GradientEstimator):
    """As ``GradientEstimator``, with directional derivatives of the target taken in forward mode (Sec. 3.3).

    Tangents, how the output of a block moves along its directions, are pushed through the later blocks. They meet the
    gradient of the loss where the target has it: at the block's own auxiliary network, the next block's, or the input
    of the last block, all of which take a backward pass of their own anyway. No other backward pass leaves a block, and
    no more than one block's activations are kept.

    Where a coefficient stands for a tensor of weights or more, one run carries all tangents. Finer coefficients take a
    first run for the loss and a second one, in which a few tangents of one block at a time go through the rest.

    For ``weight`` the estimates are those of ``GradientEstimator``. Where batch norm couples the samples, coefficients
    for every sample are others: forward mode has the derivative of what sample i adds to the loss with *all* samples
    moving along their directions, reverse mode that of the whole loss with sample i moving alone. Over the batch both
    sum to the same.

    Bodies run several times, and must not draw random numbers. ``cosine`` has no effect: forward mode does not know how
    long a target is.

    Args:
        target: see ``GradientEstimator``.
        guess: see ``GradientEstimator``; not ``ExactGuess``, since only directional derivatives are known.
        perturbation: see ``GradientEstimator``. The finer its coefficients, the more directional derivatives it takes.
        train_auxiliaries: see ``GradientEstimator``.
        probe: see ``GradientEstimator``.
        channels_last: see ``GradientEstimator``.

    Raises:
        ValueError: for an exact guess.
    """

    name = "engine=forward"
    remedy = "accepted are operations with a forward-mode derivative, or engine=reverse"

    def __init__(
        self,
        target: Target,
        guess: Guess,
        perturbation: Perturbation,
        *,
        train_auxiliaries: bool = True,
        probe: bool = False,
        channels_last: bool = False,
    ) -> None:
        super().__init__(
            target,
            guess,
            perturbation,
            train_auxiliaries=train_auxiliaries,
            probe=probe,
            channels_last=channels_last,
        )
        if isinstance(guess, ExactGuess):
            raise ValueError("engine=forward knows only directional derivatives: guess=exact needs engine=reverse")

    def compile(self, compiler: Compiler = inductor) -> None:
        """See ``GradientEstimator``.

        Raises:
            ValueError: where directions are drawn a second time, which a record cannot tell from a first time.
        """
        if self.guess.drawn and isinstance(self.perturbation, WeightPerSamplePerturbation):
            raise ValueError(
                "compile=true cannot go with engine=forward and random directions of every sample's weights: "
                "accepted is compile=false, engine=reverse or another guess"
            )
        super().compile(compiler)

    @torch.no_grad()
    @plain_attention()
    def differentiate(self, body: nn.Module, x: Tensor, last: bool) -> None:
        """See ``GradientEstimator``: push tangents through it, one and several, unless it is the last."""
        if last:
            return super().differentiate(body, x, last)
        buffers = Buffers([body])
        body(x)  # which buffers it moves tells how many tangents it takes at once
        tangents = torch.ones_like(x).expand(2, *x.shape) if x.is_floating_point() else None
        moved = {name: torch.ones_like(p).expand(2, *p.shape) for name, p in body.named_parameters()}
        again = partial(buffers.again, body)
        if moved:
            pushforward_all(body, x, {name: t[:1] for name, t in moved.items()}, again)
            pushforward_all(body, x, moved, again)
        if tangents is not None:
            pushforward_all(body, x, tangents[:1], again)
            pushforward_all(body, x, tangents, again)

    @torch.no_grad()
    @plain_attention()
    def _estimate(self, model: nn.Module | Sequence[Block], images: Tensor, labels: Tensor, *, cosine: bool) -> Step:
        blocks, *start = self._begin(model, images, labels)
        _check_deterministic(blocks)
        passes = (self._in_one_run if self.perturbation.in_one_run else self._in_two_runs)(blocks, *start)
        return self._finish(passes, None)

    def _in_one_run(self, blocks: Sequence[Block], batch: Batch, buffers: Buffers) -> list[BlockPass]:
        """Carry tangents from block to block; the directions they are along are kept, and become the gradients."""
        joint = self.perturbation.granularity == "network" and self.target.reach is None  # a single tangent does
        directions: dict[int, list[Tensor]] = {}
        moving: dict[int, Tensor] = {}  # tangents at the current output, (count, batch, ...), by the block they are of
        sums: dict[int, Tensor] = {}

        def run(here: BlockPass) -> None:
            index = here.index
            if self.guess.uses_auxiliaries:  # others run together with their tangents
                self._run_on_graph(here)
            directions[index] = self.perturbation.directions(here, self.guess)
            if joint:
                moving[0] = self.perturbation.tangents(here, directions[index], self.guess, moving.get(0))
                return
            own = {}
            if here.parameters:
                own[index] = self.perturbation.tangents(here, directions[index], self.guess)
            elif here.output is None:
                self._run(here)
            if moving:
                pushed = pushforward_all(here.block.body, here.input, torch.cat(list(moving.values())), here.again)[1]
                moving.update(zip(moving, pushed.split([len(tangents) for tangents in moving.values()])))
            moving.update(own)
            arrived = None if self.target.reach is None else moving.pop(index - self.target.reach, None)
            if arrived is not None:
                sums[index - self.target.reach] = _read(arrived, here.local_gradient).sum(1)

        passes = self._network(blocks, batch, buffers, run)
        sums |= {index: _read(tangents, passes[-1].input_gradient).sum(1) for index, tangents in moving.items()}
        self._scale(passes, directions, sums)
        return passes

    def _scale(self, passes: Sequence[BlockPass], directions: dict[int, list[Tensor]], sums: dict[int, Tensor]) -> None:
        """Make directions of weights the estimates, from inner products by block and coefficient."""
        parts = [here for here in passes[:-1] if here.parameters]
        groups = [[here] for here in parts]
        if self.perturbation.granularity == "network" and parts:
            groups = [parts]
            total = torch.stack(list(sums.values())).sum(0)
            # Of all coefficients there is the sum, and the first has it.
            sums = {here.index: torch.zeros_like(total) for here in parts} | {parts[0].index: total}
        for group in groups:
            known = group[0].batch.mean([sums[here.index] for here in group])
            own = [directions.pop(here.index) for here in group]
            for here, gradients in self.perturbation.from_sums(group, own, known, self.guess):
                _set(here, gradients)

    def _in_two_runs(self, blocks: Sequence[Block], batch: Batch, buffers: Buffers) -> list[BlockPass]:
        """One run for the loss, and another one that takes one block's derivatives at a time."""

        def run(here: BlockPass) -> None:
            here.evaluate = here.evaluate and partial(here.evaluate, to_output=False)
            here.output = here.block.body(here.input)

        passes = self._network(blocks, batch, buffers, run)
        for here, derivative in self._derivatives(passes):
            _set(here, self.perturbation.estimate_forward(here, derivative, self.guess))
        return passes

    def _network(
        self, blocks: Sequence[Block], batch: Batch, buffers: Buffers, run: Callable[[BlockPass], None]
    ) -> list[BlockPass]:
        """Run blocks 0..J-2 one after the other as ``run`` does, and the last one with its exact gradients."""
        passes = []
        hidden = batch.images
        for index, block in enumerate(blocks[:-1]):
            here = self._pass(index, block, batch, buffers, hidden.detach())
            run(here)
            hidden = here.output
            here.release()
            passes.append(here)
        x = hidden.detach().requires_grad_(len(blocks) > 1)
        last = self._pass(len(blocks) - 1, blocks[-1], batch, buffers, x, last=True)
        with torch.enable_grad():
            self._run(last)
            self._head(last)
        return [*passes, last]

    def _run_on_graph(self, here: BlockPass) -> None:
        with torch.set_grad_enabled(bool(here.parameters)):
            self._run(here)

    def _derivatives(self, passes: Sequence[BlockPass]) -> Iterator[tuple[BlockPass, BlockDerivative]]:
        """Run blocks 0..J-2 once more, each with what takes derivatives of its target along tangents of its output."""
        hidden = passes[-1].batch.images
        for before in passes[:-1]:
            here = self._pass(before.index, before.block, before.batch, before.buffers, hidden.detach())
            here.evaluate = here.evaluate and partial(here.evaluate, train=False)
            with here.buffers.again(here.block):
                if self.perturbation.reuses_graph(self.guess):
                    self._run_on_graph(here)
                else:
                    here.output = here.block.body(here.input)
                hidden = here.output
                if here.parameters:
                    yield here, self._derivative(here, passes)
                here.release()

    def _derivative(self, here: BlockPass, passes: Sequence[BlockPass]) -> BlockDerivative:
        """What takes derivatives of the target of one block along tangents of its output."""
        x, reach = here.output.detach(), self.target.reach
        rest = passes[here.index + 1 : -1][:reach]
        if reach == 0:
            gradient = here.local_gradient
        elif reach is None or len(rest) < reach:
            gradient = passes[-1].input_gradient
        else:
            gradient = _local_gradient(x, rest)

        def derivative(tangents: Tensor) -> Tensor:
            products = []
            for moving in tangents.split(TANGENTS):
                output = x
                for later in rest:
                    output, moving = pushforward_all(later.block.body, output, moving, later.again)
                products.append(_read(moving, gradient))
            return torch.cat(products)

        return derivative


def _local_gradient(x: Tensor, passes: Sequence[BlockPass]) -> Tensor:
    """The gradient of the last of several blocks' local loss with respect to its output."""
    for here in passes:
        with here.again():
            x = here.block.body(x)
    with here.buffers.again(here.block.aux):
        loss = local_loss(here.block, x, here.batch.labels, here.buffers, to_output=True, train=False)
    return loss.gradient


def _set(here: BlockPass, gradients: Sequence[Tensor]) -> None:
    for parameter, gradient in zip(here.parameters, gradients):
        parameter.grad = gradient


def _check_deterministic(blocks: Sequence[Block]) -> None:
    for index, block in enumerate(blocks[:-1]):
        for name, module in block.body.named_modules():
            # Dropout and stochastic depth have a probability p, attention and recurrent layers one named dropout.
            for setting in ("p", "dropout"):
                value = getattr(module, setting, None)
                if module.training and isinstance(value, float | int) and 0 < value <= 1:
                    raise BlockError(
                        "engine=forward runs a block several times and needs the same output each time, but "
                        f"{name} of block {index}, a {type(module).__name__}, has {setting}={value}: accepted is 0"
                    )


def _read(tangents: Tensor, gradient: Tensor) -> Tensor:
    """Each sample's share of <gradient, tangent>, ``(count, batch)``, for tangents ``(count, batch, ...)``."""
    return (tangents.flatten(2) * gradient.flatten(1)).sum(2)
