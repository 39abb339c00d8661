"""The gradient estimator: one forward pass, then target, guess and projection."""

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn

from fglight.estimators.batch import Batch
from fglight.estimators.compiled import CompiledEstimate, Compiler, inductor
from fglight.estimators.guesses import ExactGuess, Guess, RandomGuess
from fglight.estimators.passes import BlockPass, LocalLoss, Step, local_loss, trainable
from fglight.estimators.perturbations import Perturbation, Unprojected
from fglight.estimators.targets import Target
from fglight.models.blocks import Block


class GradientEstimator:
    """Estimates the gradient of every block by projecting a target on a guess (Eq. 1).

    The last block always takes the exact gradient of the network's loss.

    Args:
        target: the gradient that is approximated.
        guess: the direction it is projected on.
        perturbation: the space of the projection. With ``ExactGuess`` it plays no role and is replaced by
            ``Unprojected``.
        train_auxiliaries: whether auxiliary networks that the target or the guess uses are trained, by their own L_j. A
            guess that forbids it (``ntk``, ``fixed_ntk``) has the last word.
        probe: train auxiliary networks even where nothing uses them, on detached outputs; the network's own gradients
            stay the same.

    Raises:
        ValueError: if ``probe`` would train auxiliary networks that are to stay as they are, or the perturbation takes
            one direction and the guess has several.
    """

    def __init__(
        self,
        target: Target,
        guess: Guess,
        perturbation: Perturbation,
        *,
        train_auxiliaries: bool = True,
        probe: bool = False,
    ) -> None:
        if guess.directions > 1 and not perturbation.several_directions:
            raise ValueError(
                f"guess.directions={guess.directions} is not possible with {type(perturbation).__name__}: accepted is 1"
            )
        self.target = target
        self.guess = guess
        self.perturbation = Unprojected() if isinstance(guess, ExactGuess) else perturbation
        self.needs_auxiliaries = target.uses_auxiliaries or guess.uses_auxiliaries
        self.trains_auxiliaries = guess.trains_auxiliaries and (probe or (train_auxiliaries and self.needs_auxiliaries))
        if probe and not (guess.trains_auxiliaries and (train_auxiliaries or not self.needs_auxiliaries)):
            raise ValueError(
                "probe=true trains auxiliary networks, but here they give the guess or the target and are to stay "
                "untrained (guess=ntk, guess=fixed_ntk or aux.trained=false): set probe=false"
            )

    @property
    def evaluates_auxiliaries(self) -> bool:
        """Whether a step evaluates the auxiliary networks at all."""
        return self.needs_auxiliaries or self.trains_auxiliaries

    @property
    def draws_by_sample(self) -> bool:
        """Whether every sample has random directions of its own, so that processes must not draw the same ones."""
        return isinstance(self.guess, RandomGuess) and self.perturbation.by_sample

    def trained_parameters(self, model: nn.Module | Sequence[Block]) -> list[nn.Parameter]:
        """The parameters that get a gradient, in the order of the blocks: what an optimizer should be given."""
        blocks = _blocks(model)
        return [
            parameter
            for block in blocks
            for parameter in trainable(block if self.trains_auxiliaries or block is blocks[-1] else block.body)
        ]

    @torch.enable_grad()
    def estimate(
        self, model: nn.Module | Sequence[Block], images: Tensor, labels: Tensor, *, cosine: bool = False
    ) -> Step:
        """Estimate the gradients for one batch.

        Leaves the estimate in ``.grad`` of every trained parameter and None in all others. Buffers such as running
        statistics move once, as in one ordinary forward pass.

        In a ``torch.distributed`` process group, estimates are those of one process with all processes' batches below
        each other (but for layers that couple samples), the same in each. Every process has to take part, with the
        same generator state where the guess is drawn (unless ``draws_by_sample``).

        Args:
            model: a ``BlockNetwork``, any module with a sequence ``blocks``, or the sequence of blocks itself.
            images: ``(batch, channels, height, width)`` or whatever block 0 takes, in any floating dtype.
            labels: class indices, ``(batch,)``.
            cosine: whether the cosine similarity of guess and target is computed as well.

        Returns:
            Losses and logits of this process's batch and, where asked for, cosine similarities of the whole one.
        """
        blocks, batch = self._begin(model, images, labels)
        passes = self.forward(blocks, batch)
        targets = self.target(
            passes,
            partial(self.perturbation.points, guess=self.guess, cosine=cosine),
            keep=self.perturbation.reuses_graph(self.guess),
        )
        cosines = passes[-1].local.loss.new_full((len(passes) - 1,), torch.nan)
        for here, estimate in self.perturbation(targets, self.guess, cosine=cosine):
            for parameter, gradient in zip(here.parameters, estimate.gradients):
                parameter.grad = gradient
            if estimate.cosine is not None:
                cosines[here.index] = estimate.cosine
            here.release()
        return self._finish(passes, cosines if cosine and not isinstance(self.guess, ExactGuess) else None)

    def compile(self, compiler: Compiler = inductor) -> None:
        """Compile ``estimate`` in place, as ``nn.Module.compile`` compiles a module; see ``CompiledEstimate``.

        Args:
            compiler: what compiles a step.
        """
        self.estimate = CompiledEstimate(self.estimate, compiler)

    def forward(self, blocks: Sequence[Block], batch: Batch) -> list[BlockPass]:
        """Run every block once, each on its own graph.

        The last block's exact gradient is taken on the way.
        """
        passes = []
        hidden = batch.images
        for index, block in enumerate(blocks):
            crosses = self.target.crosses_blocks and block is not blocks[0]
            last = block is blocks[-1]
            here = self._pass(index, block, batch, hidden.detach().requires_grad_(crosses), last=last)
            self._run(here)
            if last:
                self._head(here)
            passes.append(here)
            hidden = here.output
        return passes

    def _begin(
        self, model: nn.Module | Sequence[Block], images: Tensor, labels: Tensor
    ) -> tuple[Sequence[Block], Batch]:
        """Clear all gradients and get the guess ready."""
        blocks = _blocks(model)
        for block in blocks:
            block.zero_grad(set_to_none=True)
        self.guess.prepare(blocks)
        return blocks, Batch.of(images, labels)

    def _pass(self, index: int, block: Block, batch: Batch, x: Tensor, *, last: bool = False) -> BlockPass:
        """One block before it has run."""
        evaluate = None
        if self.evaluates_auxiliaries and not last:
            evaluate = partial(
                local_loss, block, labels=batch.labels, to_output=self.needs_auxiliaries, train=self.trains_auxiliaries
            )
        return BlockPass(index, block, batch, x, None, trainable(block.body), evaluate=evaluate)

    def _run(self, here: BlockPass) -> None:
        """Run one block, on a graph of its own."""
        with self.perturbation.recording(here.block.body) as here.calls:
            here.output = here.block.body(here.input)

    def _head(self, last: BlockPass) -> None:
        """Set the exact gradients of the last block, and of its input where that takes one."""
        loss, logits = last.block.loss(last.output, last.batch.labels)
        parameters = last.parameters + trainable(last.block.aux)
        inputs = [last.input] * last.input.requires_grad + parameters
        gradients = torch.autograd.grad(loss, inputs, allow_unused=True, materialize_grads=True)
        if last.input.requires_grad:
            last.input_gradient = gradients[0]
        for parameter, gradient in zip(parameters, gradients[len(inputs) - len(parameters) :]):
            parameter.grad = gradient
        last.local = LocalLoss(loss.detach(), logits.detach(), None)

    def _finish(self, passes: Sequence[BlockPass], cosine: Tensor | None) -> Step:
        """Average over processes what is still each one's own, and say what the step computed."""
        *rest, last = passes
        own = trainable(last.block) + [p for here in rest for p in trainable(here.block.aux) if p.grad is not None]
        if self.perturbation.by_sample:
            own += [p for here in rest for p in here.parameters]
        for parameter, gradient in zip(own, last.batch.mean([p.grad for p in own])):
            parameter.grad = gradient
        return Step(loss=last.local.loss, logits=last.local.logits, local=[here.local for here in rest], cosine=cosine)


def _blocks(model: nn.Module | Sequence[Block]) -> Sequence[Block]:
    return getattr(model, "blocks", model)
