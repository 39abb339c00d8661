"""The gradient estimator: a target, a guess, a perturbation, and the engine that computes with them."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import nullcontext, suppress
from copy import copy
from typing import Any, cast

import torch
from torch import Tensor, nn

from fglight.autodiff.batch import Batch
from fglight.autodiff.buffers import Buffers
from fglight.autodiff.diagnosis import check_unchanged, first_undifferentiable
from fglight.autodiff.layers.calls import record_calls, uncached, version_of
from fglight.autodiff.local_loss import Auxiliaries
from fglight.autodiff.parameters import hooked, without_hooks
from fglight.autodiff.passes import NetworkPass
from fglight.errors import BlockError
from fglight.estimators import check as checks
from fglight.estimators.coefficients import Coefficient
from fglight.estimators.engines.base import Engine
from fglight.estimators.engines.compiled import CompiledEstimate, Compiler, inductor
from fglight.estimators.engines.forward import ForwardMode
from fglight.estimators.engines.reverse import ReverseMode
from fglight.estimators.guesses.base import Guess
from fglight.estimators.result import Step
from fglight.estimators.spaces.base import Perturbation
from fglight.estimators.targets import Target
from fglight.estimators.verify import Verification, verify
from fglight.memory_format import as_memory_format, with_strides_of
from fglight.models.blocks import Block, trainable
from fglight.models.sizes import check_positive_ints
from fglight.models.tied import are_tied, of_first


class GradientEstimator:
    """Estimates the gradient of every block by projecting a target on a guess (Eq. 1).

    The last block always takes the exact gradient of the network's loss.

    Args:
        target: the gradient that is approximated.
        guess: the direction it is projected on.
        perturbation: the space of the projection. With a guess that does not project it plays no role: ``ExactGuess``
            has ``Everything`` in its place, ``FrozenGuess`` has ``Nothing``.
        engine: how inner products with the target are computed; None: ``ReverseMode``.
        train_auxiliaries: whether auxiliary networks that the target or the guess uses are trained, by their own L_j. A
            guess that forbids it (``ntk``, ``fixed_ntk``) has the last word.
        probe: train auxiliary networks even where nothing uses them, on detached outputs; the network's own gradients
            stay the same.
        checkpointing: whether blocks keep their inputs alone and run once more to be differentiated, with an exact
            guess (Chen et al. 2016, arXiv 1604.06174): less memory for one more forward pass, and the same gradients.
        channels_last: whether images are laid out in memory as ``(batch, height, width, channels)``, for networks with
            such weights. Whatever their strides are, images are taken in one of the two layouts.
        micro_batches: into how many parts a batch is divided, each of which takes a step's memory after the other. The
            estimate is the parts' mean by samples; layers that couple samples see those of a part. With an exact guess.

    Raises:
        ValueError: if ``probe`` would train auxiliary networks that are to stay as they are, or the parts do not go
            together.
    """

    def __init__(
        self,
        target: Target,
        guess: Guess,
        perturbation: Perturbation,
        *,
        engine: Engine | None = None,
        train_auxiliaries: bool = True,
        probe: bool = False,
        checkpointing: bool = False,
        channels_last: bool = False,
        micro_batches: int = 1,
    ) -> None:
        check_positive_ints(micro_batches=micro_batches)
        self.target = target
        self.guess = guess
        self.perturbation = perturbation
        self.engine = engine or ReverseMode()
        self.train_auxiliaries = train_auxiliaries
        self.probe = probe
        self.checkpointing = checkpointing
        self.channels_last = channels_last
        self.micro_batches = micro_batches
        self._check_parts()

    @property
    def perturbation(self) -> Perturbation:
        """The space of the projection."""
        return self.guess.space(self._perturbation)

    @perturbation.setter
    def perturbation(self, perturbation: Perturbation) -> None:
        self._perturbation = perturbation

    @property
    def coefficient(self) -> Coefficient:
        """The factor of a direction."""
        return self.perturbation.coefficient_of(self.guess)

    @property
    def needs_auxiliaries(self) -> bool:
        """Whether the target or the guess comes from local losses."""
        return self.target.uses_auxiliaries or self.guess.uses_auxiliaries

    @property
    def trains_auxiliaries(self) -> bool:
        """Whether auxiliary networks are trained."""
        wanted = self.probe or (self.train_auxiliaries and self.needs_auxiliaries)
        return self.guess.trains_auxiliaries and wanted

    @property
    def evaluates_auxiliaries(self) -> bool:
        """Whether a step evaluates the auxiliary networks at all."""
        return self.needs_auxiliaries or self.trains_auxiliaries

    @property
    def compiled(self) -> bool:
        """Whether ``compile`` was called."""
        return isinstance(self._compute, CompiledEstimate)

    @property
    def draws_by_sample(self) -> bool:
        """Whether every sample has random directions of its own, so that processes must not draw the same ones."""
        guess, space = self.guess, self.perturbation
        drawn_there = guess.randomness == "shared" and space.by_sample and not guess.is_gradient
        return guess.randomness == "samples" or drawn_there

    def trained_parameters(self, model: nn.Module | Sequence[Block]) -> list[nn.Parameter]:
        """The parameters that get a gradient: what an optimizer should be given.

        Args:
            model: as for ``estimate``.

        Returns:
            The parameters, in the order of the blocks.
        """
        *rest, last = _blocks(model)
        parts = [
            part
            for block in rest
            for part, trained in ((block.body, self.perturbation.trains), (block.aux, self.trains_auxiliaries))
            if trained
        ]
        return [parameter for part in (*parts, last) for parameter in trainable(part)]

    def estimate(
        self, model: nn.Module | Sequence[Block], images: Tensor, labels: Tensor, *, cosine: bool = False
    ) -> Step:
        """Estimate the gradients for one batch.

        Leaves the estimate in ``.grad`` of every trained parameter and None in all others. Buffers such as running
        statistics move once, as in one ordinary forward pass.

        In a ``torch.distributed`` process group, estimates are those of one process with all processes' batches below
        each other, whatever the loss, and the same in each. Layers, and auxiliary networks with a loss of their own,
        that couple samples see those of one process. Every process has to take part, with the same generator state
        where guess or coefficient is drawn (unless ``draws_by_sample``).

        Args:
            model: a ``BlockNetwork``, any module with a sequence ``blocks``, or the sequence of blocks itself.
            images: ``(batch, channels, height, width)`` or whatever block 0 takes, in any floating dtype.
            labels: what the blocks' losses take, samples first: class indices ``(batch,)``, or values.
            cosine: whether the cosine similarity of guess and target is computed as well.

        Returns:
            Losses of the whole batch, logits of this process's and, where asked for, cosine similarities of the whole.

        Raises:
            BlockError: for a layer that the engine cannot differentiate, or cannot run several times, for blocks that
                share parameters, and for convolutions that CPUs cannot compute with channels last.
        """
        blocks = _blocks(model)
        checks.check_parameters(blocks, projects=self.guess.projects)
        checks.check_inputs(blocks, images, labels)
        images = as_memory_format(images, self.channels_last)
        for block in blocks:
            block.zero_grad(set_to_none=True)
        version = version_of(images)
        try:
            with uncached(images.device):
                step, gradients = self._in_parts(blocks, images, labels, cosine=cosine)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            culprit = first_undifferentiable(blocks, images, checks.differentiation(self.perturbation, self.engine))
            if culprit is None:
                raise
            raise BlockError(f"{self.engine.name} cannot differentiate {culprit}: {self.engine.remedy}") from error
        check_unchanged(0, images, version)
        for parameter, gradient in of_first(_parameters(blocks), gradients).items():
            _give(parameter, gradient)
        return step

    def check(self, model: nn.Module | Sequence[Block], images: Tensor) -> list[checks.LayerCheck]:
        """Tell, before any training, what a step will do with each layer: nothing is trained, and no buffer moves.

        Args:
            model: as for ``estimate``.
            images: an example batch, best of another size than any dimension that is not the sample.

        Returns:
            For each layer with trained parameters, in the order of the blocks: fast, slow (why, at what cost), or
            refused (why, and what is accepted).
        """
        blocks, images = _blocks(model), as_memory_format(images, self.channels_last)
        try:
            checks.check_parameters(blocks, projects=self.guess.projects)
            with uncached(images.device):
                with suppress(RuntimeError):  # it is told below, with its layer
                    self._check_network(blocks, images)
                parts = self.guess, self.perturbation, self.engine
                return checks.check_layers(blocks, images, *parts, auxiliaries=self.evaluates_auxiliaries)
        except BlockError as error:
            return [checks.LayerCheck(None, "", type(model).__name__, "refused", str(error))]

    def verify(self, model: nn.Module | Sequence[Block], images: Tensor, labels: Tensor) -> Verification:
        """Hold the estimate of this network and batch against the definition in plain autograd, engine by engine.

        All of it is computed in float64, on copies of the network (in the mode it is in, without parameters' hooks) and
        of the estimator's parts, as in a first step, of the whole batch (``micro_batches=1``): nothing moves. A few
        samples are enough, and quicker: single samples' coefficients take a backward pass for each.

        Args:
            model: as for ``estimate``.
            images: as there.
            labels: as there.

        Returns:
            For each engine, by how much each estimate differs, or why there is none; ``print`` shows it.

        Raises:
            BlockError: there is no definition to hold it against, for an auxiliary network that draws random numbers;
                or there are several processes.
        """

        def estimate(engine: Engine, guess: Guess, space: Perturbation, *batch: Any) -> None:
            other = copy(self)
            other.__dict__.pop("_compute", None)  # what was compiled
            other.engine, other.guess, other.perturbation, other.micro_batches = engine, guess, space, 1
            other.estimate(*batch)

        blocks, parts = _blocks(model), (self.target, self.guess, self._perturbation, self.engine)
        auxiliaries = Auxiliaries(self.evaluates_auxiliaries, self.needs_auxiliaries, self.trains_auxiliaries)
        return verify(blocks, images, labels, *parts, auxiliaries, estimate)

    def _check_parts(self) -> None:
        """Refuse parts that do not go together; each may be replaced between two steps.

        Raises:
            ValueError: in one line.
        """
        for setting, wanted in (("checkpointing=true", self.checkpointing), ("micro_batches", self.micro_batches > 1)):
            if wanted:
                checks.check_exact(setting, self.guess, self.perturbation)
        self.perturbation.check(self.guess)
        if self.target.adds_local and not self.engine.has_targets:
            raise ValueError(
                f"{self.engine.name} must have a target of one loss, got {type(self.target).__name__}: "
                "use engine=reverse"
            )
        self.engine.check(self.guess, self.perturbation)
        if self.compiled:
            self.engine.check_compiled(self.guess, self.perturbation)
        if self.probe and not (
            self.guess.trains_auxiliaries and (self.train_auxiliaries or not self.needs_auxiliaries)
        ):
            raise ValueError(
                "probe=true trains auxiliary networks, but here they give the guess or the target and are to stay "
                "untrained (guess=ntk, guess=fixed_ntk or aux.trained=false): set probe=false"
            )

    def _check_network(self, blocks: Sequence[Block], images: Tensor) -> None:
        """Refuse a network on which a step would be wrong.

        Args:
            blocks: the network.
            images: a batch.

        Raises:
            BlockError: naming the layer.
        """
        if self.channels_last and images.device.type == "cpu":
            checks.check_kernels(blocks)
        checks.check_processes(blocks, self.perturbation, parts=self.micro_batches)
        checks.check_counts(blocks, self.guess, self.perturbation)
        self.engine.check_network(blocks, images, self.guess, self.perturbation)

    def compile(self, compiler: Compiler = inductor) -> None:
        """Compile ``estimate`` in place, as ``nn.Module.compile`` compiles a module; see ``CompiledEstimate``.

        Args:
            compiler: what compiles a step.

        Raises:
            ValueError: where a recorded step would not replay.
        """
        if self.checkpointing:  # a compiler would see that both runs compute the same, and keep it
            raise ValueError("compile=true cannot go with checkpointing=true: use false for one of them")
        self.engine.check_compiled(self.guess, self.perturbation)
        self._compute = CompiledEstimate(self, self._compute, compiler)  # type: ignore[method-assign]

    def _in_parts(
        self, blocks: Sequence[Block], images: Tensor, labels: Tensor, *, cosine: bool
    ) -> tuple[Step, dict[nn.Parameter, Tensor]]:
        """What a step computes of the parts of a batch, one after the other, and the mean of their gradients."""
        count = min(self.micro_batches, len(images))
        if count < 2:
            return self._compute(blocks, images, labels, cosine=cosine)
        steps: list[Step] = []
        shares: list[float] = []
        means: dict[nn.Parameter, Tensor] = {}
        for part in zip(images.tensor_split(count), labels.tensor_split(count)):
            step, gradients = self._compute(blocks, *part, cosine=cosine)
            steps.append(step)
            shares.append(len(part[0]) / len(images))
            for parameter, gradient in gradients.items():
                mean = means.setdefault(parameter, torch.zeros_like(gradient))
                mean.add_(gradient, alpha=shares[-1])
        return Step.of_parts(steps, shares), means

    def _compute(
        self, blocks: Sequence[Block], images: Tensor, labels: Tensor, *, cosine: bool
    ) -> tuple[Step, dict[nn.Parameter, Tensor]]:
        """What the step computes, and the gradients."""
        self._check_parts()
        self._check_network(blocks, images)
        batch = Batch.of(images, labels, compiled=self.compiled)
        self.guess.set_up(blocks, images)
        self.guess.prepare(blocks)
        space = self.perturbation
        self.coefficient.prepare()
        auxiliaries = Auxiliaries(self.evaluates_auxiliaries, self.needs_auxiliaries, self.trains_auxiliaries)
        recorded = space.in_parameters and space.by_sample
        network = NetworkPass(
            blocks,
            batch,
            Buffers(blocks, draws=self.checkpointing or not self.engine.has_targets),
            auxiliaries,
            record_calls if recorded else lambda body: nullcontext([]),
            self.target.loss_blocks(len(blocks) - 1),
            adds_local=self.target.adds_local,
            trains_blocks=space.trains,
            needs=self.guess.needs,
            checkpointing=self.checkpointing,
        )
        # What is drawn in the space of parameters is not a gradient: hooks apply to the estimate that comes of it.
        drawn = space.in_parameters and not self.guess.is_gradient
        parameters = [p for block in blocks[:-1] for p in trainable(block.body)] if drawn else []
        with self.engine.context(), without_hooks(parameters):
            cosines = self._project(network, cosine=cosine and self.guess.projects)
        *rest, last = network.passes
        assert last.local is not None
        # Gradients of the whole batch are projected; of samples, and of the rest, each process has its own.
        alike = set() if space.by_sample else {p for block_pass in rest for p in block_pass.parameters}
        own = {p: gradient for p, gradient in network.gradients.items() if p not in alike}
        network.gradients.update(zip(own, batch.sum(list(own.values()))))
        network.gradients |= {p: hooked(p, network.gradients[p]) for p in parameters if p in network.gradients}
        for block_pass in rest:
            self.guess.update(
                block_pass.block, {p: network.gradients[p] for p in block_pass.parameters if p in network.gradients}
            )
        losses = [block_pass.local for block_pass in network.passes if block_pass.local is not None]
        for local, loss in zip(losses, batch.sum([local.loss for local in losses])):
            local.loss = loss
        step = Step(last.local.loss, last.local.logits, [block.local for block in rest], cosines)
        return step, {
            parameter: with_strides_of(parameter, gradient) for parameter, gradient in network.gradients.items()
        }

    def _project(self, network: NetworkPass, *, cosine: bool) -> Tensor | None:
        """Project the target of every block on its guess, in the space of the perturbation (Eq. 1).

        Args:
            network: whose ``gradients`` the estimates become.
            cosine: whether the cosine similarities of guess and target are wanted.

        Returns:
            These, ``(J-1,)``; None where they are not known.
        """
        guess, space = self.guess, self.perturbation
        found: dict[int, list[Tensor]] = defaultdict(list)
        # Where blocks have run for the last time, an optimizer may take a gradient as it comes, and let go of it.
        at_once = space.carries and not (self.engine.has_targets or self.compiled or guess.keeps)
        at_once = at_once and not are_tied(_parameters(network.blocks))
        for parts, products, squares in self.engine.products(network, guess, space, cosine=cosine):
            if products and not space.by_sample:
                products = network.batch.sum(products)
            coefficients = space.coefficients(guess, parts, products, squares)
            for number, (part, c) in enumerate(zip(parts, coefficients)):
                if cosine and products and squares:
                    similarities = space.cosine(guess, part, products[number], c, squares[number])
                    found[part.block_pass.index] += (
                        network.batch.mean([similarities]) if space.by_sample else similarities
                    )
                for parameter, gradient in part.pull_back(c).items():
                    if at_once and parameter._post_accumulate_grad_hooks:
                        _give(parameter, with_strides_of(parameter, hooked(parameter, gradient)))
                    else:
                        network.gradients[parameter] = gradient
                    del gradient
        if not (cosine and self.engine.has_targets):
            return None
        last = network.passes[-1].local
        assert last is not None
        nothing = last.loss.new_tensor(torch.nan)
        means = [torch.stack(found[j]).mean().to(nothing) if found[j] else nothing for j in range(len(network.losses))]
        return torch.stack(means) if means else nothing.expand(0)


class ForwardModeEstimator(GradientEstimator):
    """``GradientEstimator`` with ``engine=ForwardMode()``; the other arguments are as there."""

    def __init__(self, target: Target, guess: Guess, perturbation: Perturbation, **settings: Any) -> None:
        super().__init__(target, guess, perturbation, engine=ForwardMode(), **settings)


def _give(parameter: nn.Parameter, gradient: Tensor) -> None:
    """Leave a gradient where optimizers look, and call the hooks of ``register_post_accumulate_grad_hook``."""
    parameter.grad = gradient
    for hook in (parameter._post_accumulate_grad_hooks or {}).values():
        hook(parameter)


def _parameters(blocks: Sequence[Block]) -> Iterator[nn.Parameter]:
    return (parameter for block in blocks for parameter in block.parameters())


def _blocks(model: nn.Module | Sequence[Block]) -> Sequence[Block]:
    blocks = getattr(model, "blocks", model)
    if (
        isinstance(blocks, Sequence | nn.ModuleList)
        and len(blocks)
        and all(isinstance(getattr(block, part, None), nn.Module) for block in blocks for part in ("body", "aux"))
    ):
        return cast(Sequence[Block], blocks)
    inner = getattr(model, "module", None)
    way = (
        f"pass what it wraps, {type(model).__name__}.module"
        if isinstance(inner, nn.Module)
        else "fglight.models.split(network, names, example) cuts it where submodules of these names begin"
    )
    raise BlockError(f"the network must be a BlockNetwork or a sequence of Blocks, got a {type(model).__name__}: {way}")
