"""Weight perturbation with a coefficient for each sample and parameter tensor, at the cost of a single layer at a time.

A block's per-sample gradients follow from what each of its layers took in and from the cotangent of what it gave out.
Two backward passes that compute activations only, one for the target and one for the guess, give these cotangents; all
that comes after concerns one layer and a few samples at a time.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.autograd.graph import get_gradient_edge

from fglight.estimators.diagnosis import generators_kept
from fglight.estimators.guesses.base import Guess
from fglight.estimators.layers import CONVOLUTIONS, NO_SINGLE_USE, LayerCall, knows_layer, record_calls
from fglight.estimators.passes import BlockPass
from fglight.estimators.per_sample import InnerProducts, ParameterUse
from fglight.estimators.perturbations.base import BlockDerivative, Estimate, Perturbation
from fglight.estimators.targets import TargetGradient
from fglight.estimators.units import Granularity


class WeightPerSamplePerturbation(Perturbation):
    """As ``WeightPerturbation``, but target t_i, guess g_i and coefficient c_i per sample, summed (Eq. 4 per sample).

    t_i is sample i's share of the batch gradient: what a layer's input and the cotangent of its output contribute at
    sample i. Their sum over the batch is the batch gradient, also where batch norm couples the samples. For a parameter
    that no single use of a layer stands for (attention's projections, a layer used twice), it is what the cotangent of
    the block's output contributes at sample i, at the cost of a backward pass through the block for each sample.
    """

    granularities: ClassVar = {"tensor": Granularity()}
    draws_twice = True

    def slow(self, here: BlockPass, parameter: nn.Parameter, guess: Guess, *, aims: bool) -> str:
        """See ``Perturbation``."""
        if not guess.random and self.coefficient_of(guess).constant is not None:
            return ""  # the gradient of the whole batch
        call, name = here.owners.get(parameter, (None, ""))
        cost = "a backward pass through the block for each sample"
        if call is None:
            return f"{NO_SINGLE_USE}: {cost}"
        if not call.by_sample(len(here.input)):
            return f"dimension 0 of what its layer takes in or gives out is not the sample: {cost}"
        if not knows_layer(call, name):
            return f"no formula for a {type(call.layer).__name__}: a backward pass through the layer for each sample"
        return ""

    def recording(self, body: nn.Module) -> AbstractContextManager[list[LayerCall]]:
        """Record what the layers take in while a block runs."""
        return record_calls(body)

    def points(self, here: BlockPass, guess: Guess, *, cosine: bool) -> Sequence[Tensor | LayerCall]:
        """See ``Perturbation``: the outputs of the layers."""
        return here.calls

    def estimate(self, here: BlockPass, target: TargetGradient | None, guess: Guess, *, cosine: bool) -> Estimate:
        """See ``Perturbation``; the cosine is the mean over samples and parameter tensors."""
        direction = _direction(here, guess)
        constant = None if guess.random else self.coefficient_of(guess).constant
        estimates, similarity = [], None
        if target is not None or constant is None:
            whole = whole_block(here)
            at_outputs = {}
            if target is not None:
                at_outputs = dict(zip([*here.calls, whole], [*target.inside, target.output]))
                target.release()
            gradients, cosines = {}, []
            for use in parameter_uses(here, whole, direction, at_outputs):
                gradients[use.parameter], of_tensor = self._project(here, use, guess, cosine=cosine)
                cosines.append(of_tensor)
            estimates = [gradients[parameter] for parameter in here.parameters]
            similarity = here.network.batch.mean([torch.stack(cosines).mean()])[0] if cosine else None
        if constant is not None:  # the gradient of the whole batch
            estimates = here.to_parameters(constant * direction, keep=False)
        return Estimate(estimates, similarity)

    def estimate_forward(self, here: BlockPass, derivative: BlockDerivative, guess: Guess) -> list[Tensor]:
        """See ``Perturbation``; for each parameter all samples along their own directions at once."""
        if not self.uses_target(guess):
            return self.estimate(here, None, guess, cosine=False).gradients
        whole, direction = whole_block(here), _direction(here, guess)
        # Directions of all samples take too much memory: they are drawn a second time to be scaled.
        with generators_kept(here.input.device, enabled=guess.random):
            tangents = [_tangent(here, use, guess) for use in parameter_uses(here, whole, direction)]
        uses = zip(parameter_uses(here, whole, direction), derivative(torch.stack(tangents)))
        gradients = {use.parameter: self._project(here, use, guess, products=products)[0] for use, products in uses}
        return [gradients[parameter] for parameter in here.parameters]

    def _project(
        self, here: BlockPass, use: ParameterUse, guess: Guess, *, products: Tensor | None = None, cosine: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        """Project every sample's gradient of one parameter on that sample's guess, and sum over the batch.

        Args:
            here: the block.
            use: of the parameter.
            guess: turns inner products into coefficients.
            products: ⟨t_i, g_i⟩, ``(batch,)``, where they are known.
            cosine: whether the cosine similarity is wanted, for which a target is needed.

        Returns:
            The estimate in the parameter's shape, and the mean over samples of the cosine similarity of t_i and g_i.
        """
        estimate = torch.zeros_like(use.parameter)
        factors, cosines = [], []
        for samples, part in use.chunks():
            if use.by_gram:
                inner = InnerProducts.by_gram(part, lengths=cosine)
            else:
                t, g = (None if x is None else x.flatten(1) for x in part.gradients(guess))
                inner = InnerProducts.of(t, g, lengths=cosine)
            known = inner.products if products is None else products[samples]
            factors.append(self.factors(here, guess, known, inner.squares))
            if not use.by_gram:
                estimate += (factors[-1].to(g.dtype) @ g).view_as(estimate)
            if cosine:
                cosines.append(inner.cosines())
        joined = torch.cat(factors)
        if use.by_gram:
            estimate = use.pull_back(joined)
        scale = self.coefficient_of(guess).scale(joined, here.network.batch)
        return (estimate * scale).to(estimate.dtype), torch.cat(cosines).mean() if cosines else None


def whole_block(here: BlockPass) -> LayerCall:
    """The block as if it were a layer, for parameters that no single use of a layer stands for."""
    edge = get_gradient_edge(here.output)
    return LayerCall(here.block.body, here.input, edge, here.output.shape, again=partial(here.again, on_graph=False))


def parameter_uses(
    here: BlockPass, whole: LayerCall, direction: Tensor | None, targets: dict[LayerCall, Tensor] | None = None
) -> Iterator[ParameterUse]:
    """The use of each trained parameter of a block, with its target and guess.

    Both are let go of after a layer's last parameter. Random directions are drawn for the parameters themselves, in the
    order of ``body.parameters()``. For other guesses, convolutions and linear layers come last: they take more memory.

    Args:
        here: the block.
        whole: the block as if it were a layer.
        direction: the guess in the space of h_j, in its shape; None: one is drawn for each parameter.
        targets: the target's cotangents at the outputs of layers; None where they are not needed.
    """
    targets = {} if targets is None else targets
    directions: dict[LayerCall, Tensor] = {}
    uses = []
    for parameter in here.parameters:
        call, name = here.owners.get(parameter, (whole, ""))
        uses.append((parameter, *((call, name) if call.by_sample(len(here.input)) else (whole, ""))))
    if direction is not None:
        uses.sort(key=lambda use: type(use[1].layer) in (nn.Linear, *CONVOLUTIONS))
        directions = dict(zip([*here.calls, whole], [*here.vjp(direction, here.calls), direction]))
    left = Counter(call for _, call, _ in uses)
    for parameter, call, name in uses:
        left[call] -= 1
        use = ParameterUse(parameter, call, name, targets.get(call), directions.get(call))
        if not left[call]:
            targets.pop(call, None)
            directions.pop(call, None)
        yield use


def _direction(here: BlockPass, guess: Guess) -> Tensor | None:
    """The guess in the space of h_j, in its shape; None where one is drawn for each parameter."""
    return None if guess.random else guess.activity(here).squeeze(0)


def _tangent(here: BlockPass, use: ParameterUse, guess: Guess) -> Tensor:
    """How a block's output moves at every sample along that sample's direction of one parameter."""
    if knows_layer(use.call, use.name):
        return here.jvp_from(use.call, use.tangents(guess))
    name = next(name for name, p in here.block.body.named_parameters() if p is use.parameter)
    return here.jvp_each(name, use.gradients(guess)[1])
