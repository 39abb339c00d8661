"""The same estimates by forward-mode automatic differentiation, without a backward pass through the network."""

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn

from fglight.estimators.batch import Batch
from fglight.estimators.duals import plain_attention, pushforward_all, still
from fglight.estimators.estimator import GradientEstimator, Step
from fglight.estimators.guesses import ExactGuess, Guess
from fglight.estimators.passes import BlockPass
from fglight.estimators.perturbations import Perturbation
from fglight.estimators.targets import Target
from fglight.models.blocks import Block

Products = dict[int, Tensor]
"""Inner products of targets and directions by block and sample, ``(count, batch)``."""


class ForwardModeEstimator(GradientEstimator):
    """As ``GradientEstimator``, with directional derivatives of the target taken in forward mode (Sec. 3.3).

    Every block hands on, with its output, tangents: how the output moves along the directions of the blocks so far.
    They meet the gradient of the loss where the target has it: at the block's own auxiliary network, the next block's,
    or the input of the last block, all of which take a backward pass of their own anyway. No other backward pass
    leaves a block, and no more than one block's activations are kept.

    For ``weight`` the estimates are those of ``GradientEstimator``. Perturbations with coefficients for every sample
    run the network twice, for the coefficients and then for the estimates. Where batch norm couples the samples, their
    coefficients are others: forward mode has the derivative of what sample i adds to the loss with *all* samples
    moving along their directions, reverse mode that of the whole loss with sample i moving alone. Over the batch both
    sum to the same.

    Args:
        target: see ``GradientEstimator``.
        guess: see ``GradientEstimator``; not ``ExactGuess``, since only directional derivatives are known.
        perturbation: see ``GradientEstimator``, with one of its ``forward_granularities``.
        train_auxiliaries: see ``GradientEstimator``.
        probe: see ``GradientEstimator``.

    Raises:
        ValueError: for what forward mode does not have.
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
        super().__init__(target, guess, perturbation, train_auxiliaries=train_auxiliaries, probe=probe)
        if isinstance(guess, ExactGuess):
            raise ValueError("engine=forward knows only directional derivatives: guess=exact needs engine=reverse")
        if perturbation.granularity not in perturbation.forward_granularities:
            accepted = ", ".join(perturbation.forward_granularities) or "engine=reverse"
            raise ValueError(
                f"perturb.granularity={perturbation.granularity} of {type(perturbation).__name__} takes too many "
                f"directional derivatives for engine=forward: accepted is {accepted}"
            )

    @torch.no_grad()
    @plain_attention()
    def estimate(
        self, model: nn.Module | Sequence[Block], images: Tensor, labels: Tensor, *, cosine: bool = False
    ) -> Step:
        """See ``GradientEstimator``; bodies must not draw random numbers.

        Args:
            model: see ``GradientEstimator``.
            images: see ``GradientEstimator``.
            labels: see ``GradientEstimator``.
            cosine: without effect, since forward mode does not know how long a target is.

        Raises:
            ValueError: for a body with dropout or stochastic depth.
        """
        blocks, batch = self._begin(model, images, labels)
        _check_deterministic(blocks)
        devices = [images.device] if images.device.type != "cpu" else []
        with torch.random.fork_rng(devices, enabled=self.perturbation.by_sample, device_type=images.device.type):
            passes, products = self._derivatives(blocks, batch)
        if self.perturbation.by_sample:
            self._run_again(passes, products)
        else:
            self._combine(passes, products)
        return self._finish(passes, None)

    @property
    def _joint(self) -> bool:
        """Whether a single tangent carries the directions of all blocks."""
        return self.perturbation.granularity == "network" and self.target.reach is None

    def _derivatives(self, blocks: Sequence[Block], batch: Batch) -> tuple[list[BlockPass], Products]:
        """Run the network once with its tangents."""
        passes: list[BlockPass] = []
        products: Products = {}
        moving: dict[int, Tensor] = {}  # tangents at the current output, (count, batch, ...), by the block they are of
        hidden = batch.images
        for index, block in enumerate(blocks[:-1]):
            here = self._pass(index, block, batch, hidden.detach())
            if self.perturbation.by_sample or self.guess.uses_auxiliaries:  # others run together with their tangents
                with torch.set_grad_enabled(bool(here.parameters) and self.perturbation.inside_block):
                    self._run(here)
            if self._joint:
                moving = {0: self.perturbation.tangents(here, self.guess, moving.get(0))}
            else:
                earlier = _push(here, moving)
                moving = earlier | ({index: self.perturbation.tangents(here, self.guess)} if here.parameters else {})
            if here.output is None:
                self._run(here)
            if self.target.reach is not None and index - self.target.reach in moving:
                arrived = index - self.target.reach
                products[arrived] = _read(moving.pop(arrived), here.local_gradient)
            hidden = here.output
            here.release()
            passes.append(here)
        x = hidden.detach().requires_grad_(len(blocks) > 1)
        last = self._pass(len(blocks) - 1, blocks[-1], batch, x, last=True)
        with torch.enable_grad():
            self._run(last)
            self._head(last)
        products |= {index: _read(tangents, last.input_gradient) for index, tangents in moving.items()}
        return [*passes, last], products

    def _combine(self, passes: Sequence[BlockPass], products: Products) -> None:
        """Scale the directions of weights that the passes have kept."""
        sums = {index: product.sum(1) for index, product in products.items()}
        parts = [here for here in passes[:-1] if here.parameters]
        groups = [[here] for here in parts]
        if self.perturbation.granularity == "network" and parts:
            groups = [parts]
            total = torch.stack(list(sums.values())).sum(0)
            # Of all coefficients there is the sum, and the first has it.
            sums = {here.index: torch.zeros_like(total) for here in parts} | {parts[0].index: total}
        for group in groups:
            known = group[0].batch.mean([sums[here.index] for here in group])
            for here, gradients in zip(group, self.perturbation.from_sums(group, self.guess, known)):
                _set(here, gradients)

    def _run_again(self, passes: Sequence[BlockPass], products: Products) -> None:
        """Run all blocks but the last once more, each with a graph of its own, now that its coefficients are known."""
        hidden = passes[-1].batch.images
        for before in passes[:-1]:
            here = self._pass(before.index, before.block, before.batch, hidden.detach())
            if here.evaluate is not None:
                here.evaluate = partial(here.evaluate, train=False)
            with torch.enable_grad(), still(here.block):
                self._run(here)
                if here.parameters:
                    _set(here, self.perturbation.from_products(here, self.guess, products[here.index]))
            hidden = here.output


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
                    raise ValueError(
                        "engine=forward runs a block several times and needs the same output each time, but "
                        f"{name} of block {index}, a {type(module).__name__}, has {setting}={value}: accepted is 0"
                    )


def _push(here: BlockPass, moving: dict[int, Tensor]) -> dict[int, Tensor]:
    """Tangents of a block's output from those of its input."""
    if not moving:
        return {}
    with still(here.block.body):
        pushed = pushforward_all(here.block.body, here.input, torch.cat(list(moving.values())))
    return dict(zip(moving, pushed.split([len(tangents) for tangents in moving.values()])))


def _read(tangents: Tensor, gradient: Tensor) -> Tensor:
    """Each sample's share of <gradient, tangent>, ``(count, batch)``, for tangents ``(count, batch, ...)``."""
    return (tangents.flatten(2) * gradient.flatten(1)).sum(2)
