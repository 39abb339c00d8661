"""Weight perturbation with a coefficient for each sample and parameter tensor, at the cost of a single layer at a time.

A block's per-sample gradients follow from what each of its layers took in and from the cotangent of what it gave out.
Two backward passes that compute activations only, one for the guess and one for the target, give these cotangents; all
that comes after concerns one layer and a few samples at a time.
"""

from collections.abc import Sequence
from typing import ClassVar

from torch import nn
from torch.autograd.graph import get_gradient_edge

from fglight.autodiff.layers.calls import NO_SINGLE_USE, LayerCall
from fglight.autodiff.passes import BlockPass
from fglight.estimators.guesses.base import Guess
from fglight.estimators.spaces.base import Perturbation
from fglight.estimators.spaces.parts import ActivityPart, Granularity, Part
from fglight.estimators.spaces.per_sample import SamplePart


class WeightPerSamplePerturbation(Perturbation):
    """As ``WeightPerturbation``, but target t_i, guess g_i and coefficient c_i per sample, summed (Eq. 4 per sample).

    t_i is sample i's share of the batch gradient: what a layer's input and the cotangent of its output contribute at
    sample i. Their sum over the batch is the batch gradient, also where batch norm couples the samples. An operation
    may take a layer's place (a sum with a table of positions). For a parameter that neither stands for (attention's
    projections in one matrix, a layer used twice), t_i is what the cotangent of the block's output contributes at
    sample i, at the cost of a backward pass through the block for each sample.
    """

    granularities: ClassVar = {"tensor": Granularity()}
    in_parameters = True

    def directions(self, block_pass: BlockPass, guess: Guess, *, cosine: bool = False) -> Sequence[Part]:
        """See ``Perturbation``.

        With one constant factor for all gradients, the estimate is the gradient of the whole batch, and h_j is space
        enough. Weights of convolutions and linear layers, which take more memory, come last, unless directions are
        drawn: these are in the order of ``body.parameters()``.
        """
        pulled = guess.directions(block_pass) if guess.pulled else None
        if pulled is not None and self._is_linear(guess) and not cosine:
            return [ActivityPart(block_pass, None, pulled, self.units)]
        whole = self._whole_block(block_pass)
        cotangents = {}
        if pulled is not None:
            calls = list(dict.fromkeys(call for call, _ in block_pass.by_sample.values()))
            rows = [[*block_pass.vjp(direction, calls), direction] for direction in pulled]
            cotangents = dict(zip([*calls, whole], zip(*rows)))
        parts: list[SamplePart] = []
        for parameter in block_pass.parameters:
            call, name = block_pass.by_sample.get(parameter, (whole, ""))
            parts.append(SamplePart(block_pass, parameter, call, name, guess, cotangents.get(call)))
        if pulled is not None:
            parts.sort(key=lambda part: part.unfolds is not None)
        return parts

    def slow(self, block_pass: BlockPass, parameter: nn.Parameter, guess: Guess) -> str:
        """See ``Perturbation``."""
        if self._is_linear(guess):
            return ""
        call, name = block_pass.by_sample.get(parameter, (None, ""))
        if call is None:
            known = parameter in block_pass.owners
            why = "dimension 0 of what its layer takes in or gives out is not the sample" if known else NO_SINGLE_USE
            return f"{why}: a backward pass through the block for each sample"
        if call.kind(name, parameter) is not None:
            return ""
        if call.layer is block_pass.block.body:
            return "no formula for the operations that take it: a backward pass through these alone for each sample"
        return f"no formula for a {type(call.layer).__name__}: a backward pass through the layer for each sample"

    def _is_linear(self, guess: Guess) -> bool:
        """Whether the factor of all samples' guesses is one and the same, and these are gradients."""
        constant = self.coefficient_of(guess).constant is not None
        return guess.is_gradient and constant and not self.uses_target(guess)

    @staticmethod
    def _whole_block(block_pass: BlockPass) -> LayerCall:
        """The block as if it were a layer, for parameters that no single use of a layer stands for."""
        edge = get_gradient_edge(block_pass.output)
        return LayerCall(block_pass.block.body, block_pass.input, edge, block_pass.output.shape, again=block_pass.again)
