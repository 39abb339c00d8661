"""The gradient estimator: one forward pass, then target, guess and projection."""

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn

from fglight.errors import BlockError
from fglight.estimators.batch import Batch
from fglight.estimators.buffers import Buffers
from fglight.estimators.diagnosis import name_culprit, without_reentrant_checkpoints
from fglight.estimators.engines.compiled import CompiledEstimate, Compiler, inductor
from fglight.estimators.guesses.base import Guess
from fglight.estimators.guesses.exact import ExactGuess
from fglight.estimators.guesses.random import RandomGuess
from fglight.estimators.layers import used_in
from fglight.estimators.passes import BlockPass, LocalLoss, Step, local_loss, trainable
from fglight.estimators.perturbations.base import Perturbation, Unprojected
from fglight.estimators.targets import Target
from fglight.layout import laid_out
from fglight.models.blocks import Block

LANES = 16
"""How many single-precision numbers the vector registers of CPUs hold at most."""


class GradientEstimator:
    """Estimates the gradient of every block by projecting a target on a guess (Eq. 1).

    The last block always takes the exact gradient of the network's loss.

    Attributes:
        name: of the engine, for messages.
        remedy: what can be done where it cannot differentiate a layer.

    Args:
        target: the gradient that is approximated.
        guess: the direction it is projected on.
        perturbation: the space of the projection. With ``ExactGuess`` it plays no role and is replaced by
            ``Unprojected``.
        train_auxiliaries: whether auxiliary networks that the target or the guess uses are trained, by their own L_j. A
            guess that forbids it (``ntk``, ``fixed_ntk``) has the last word.
        probe: train auxiliary networks even where nothing uses them, on detached outputs; the network's own gradients
            stay the same.
        channels_last: whether images are laid out in memory as ``(batch, height, width, channels)``, for networks with
            such weights. Whatever their strides are, images are taken in one of the two layouts.

    Raises:
        ValueError: if ``probe`` would train auxiliary networks that are to stay as they are, or the perturbation takes
            one direction and the guess has several.
    """

    name = "engine=reverse"
    remedy = "accepted are operations with a gradient by torch.autograd.grad"

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
        if guess.directions > 1 and not perturbation.several_directions:
            raise ValueError(
                f"guess.directions={guess.directions} is not possible with {type(perturbation).__name__}: accepted is 1"
            )
        self.target = target
        self.guess = guess
        self.channels_last = channels_last
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

        Raises:
            BlockError: for a layer that the engine cannot differentiate, or cannot run several times, for blocks that
                share parameters, and for convolutions that CPUs cannot compute with channels last.
        """
        try:
            return self._estimate(model, images, labels, cosine=cosine)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            culprit = name_culprit(_blocks(model), laid_out(images, self.channels_last), self.differentiate)
            if culprit is None:
                raise
            raise BlockError(f"{self.name} cannot differentiate {culprit}: {self.remedy}") from error

    @torch.enable_grad()
    def _estimate(self, model: nn.Module | Sequence[Block], images: Tensor, labels: Tensor, *, cosine: bool) -> Step:
        blocks, batch, buffers = self._begin(model, images, labels)
        passes = self.forward(blocks, batch, buffers)
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
        self._estimate = CompiledEstimate(self._estimate, compiler)

    @torch.enable_grad()
    def differentiate(self, body: nn.Module, x: Tensor, last: bool) -> None:
        """Do to a body what a step does: take gradients of its output.

        Args:
            body: a block's layers, which may run once more.
            x: what they take in.
            last: whether the block is the last one.

        Raises:
            RuntimeError: it cannot be done.
        """
        with without_reentrant_checkpoints():
            output = body(x.detach().requires_grad_(x.is_floating_point()))
        _, leaves = used_in(output)
        if leaves:
            torch.autograd.grad(output.sum(), list(leaves), retain_graph=True)

    def forward(self, blocks: Sequence[Block], batch: Batch, buffers: Buffers) -> list[BlockPass]:
        """Run every block once, each on its own graph.

        The last block's exact gradient is taken on the way.
        """
        passes = []
        hidden = batch.images
        for index, block in enumerate(blocks):
            crosses = self.target.crosses_blocks and block is not blocks[0]
            last = block is blocks[-1]
            x = hidden.detach().requires_grad_(crosses)
            here = self._pass(index, block, batch, buffers, x, last=last)
            self._run(here)
            if last:
                self._head(here)
            passes.append(here)
            hidden = here.output
        return passes

    def _begin(
        self, model: nn.Module | Sequence[Block], images: Tensor, labels: Tensor
    ) -> tuple[Sequence[Block], Batch, Buffers]:
        """Clear all gradients, and get ready what the step needs."""
        blocks = _blocks(model)
        _check_apart(blocks)
        if self.channels_last and images.device.type == "cpu":
            _check_kernels(blocks)
        for block in blocks:
            block.zero_grad(set_to_none=True)
        self.guess.prepare(blocks)
        return blocks, Batch.of(laid_out(images, self.channels_last), labels), Buffers(blocks)

    def _pass(
        self, index: int, block: Block, batch: Batch, buffers: Buffers, x: Tensor, *, last: bool = False
    ) -> BlockPass:
        """One block before it has run."""
        evaluate = None
        if self.evaluates_auxiliaries and not last:
            wanted = {"to_output": self.needs_auxiliaries, "train": self.trains_auxiliaries}
            evaluate = partial(local_loss, block, labels=batch.labels, buffers=buffers, **wanted)
        return BlockPass(index, block, batch, buffers, x, None, trainable(block.body), evaluate=evaluate)

    def _run(self, here: BlockPass) -> None:
        """Run one block, on a graph of its own."""
        with without_reentrant_checkpoints(), self.perturbation.recording(here.block.body) as here.calls:
            here.output = here.block.body(here.input)
        for call in here.calls:
            call.again = partial(here.again, on_graph=False)

    def _head(self, last: BlockPass) -> None:
        """Set the exact gradients of the last block, and of its input where that takes one."""
        loss, logits = last.block.loss(last.output, last.batch.labels)
        parameters = last.parameters + trainable(last.block.aux)
        inputs = [last.input] * last.input.requires_grad + parameters
        with last.buffers.again(last.block, on_graph=False):
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


def _check_apart(blocks: Sequence[Block]) -> None:
    """Refuse parameters that have more than one estimate.

    Raises:
        BlockError: naming the blocks.
    """
    owners: dict[nn.Parameter, int] = {}
    for index, block in enumerate(blocks):
        for part in [block] if block is blocks[-1] else [block.body, block.aux]:
            for parameter in trainable(part):
                if parameter in owners:
                    name = next(name for name, p in part.named_parameters() if p is parameter)
                    raise BlockError(
                        f"{name} of block {index} is also a parameter of block {owners[parameter]}: accepted are "
                        "bodies and auxiliary networks with parameters of their own"
                    )
                owners[parameter] = index


def _check_kernels(blocks: Sequence[Block]) -> None:
    """Refuse convolutions whose weight gradient is wrong on CPUs with channels last (oneDNN issue 6035).

    Raises:
        BlockError: naming the layer.
    """
    for index, block in enumerate(blocks):
        for name, module in block.named_modules():
            strided = isinstance(module, nn.Conv2d) and module.kernel_size == (1, 1) and module.stride != (1, 1)
            if strided and module.in_channels < LANES:
                raise BlockError(
                    f"channels_last=true is not possible with {name} of block {index} on CPUs, whose gradient of a "
                    f"strided 1x1 convolution of fewer than {LANES} channels is wrong: accepted is "
                    "channels_last=false, or a convolution without stride of every second pixel"
                )
