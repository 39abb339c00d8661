"""Weight perturbation with a coefficient for each sample and parameter tensor, at the cost of a single layer at a time.

A block's per-sample gradients follow from what each of its layers took in and from the cotangent of what it gave out.
Two backward passes that compute activations only, one for the target and one for the guess, give these cotangents; all
that comes after concerns one layer and a few samples at a time.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial, reduce
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.autograd.graph import get_gradient_edge

from fglight.estimators.generators import generators_kept
from fglight.estimators.guesses.base import Guess
from fglight.estimators.layers import CONVOLUTIONS, NO_SINGLE_USE, LayerCall, knows_layer, record_calls
from fglight.estimators.passes import BlockPass
from fglight.estimators.per_sample import InnerProducts, ParameterUse
from fglight.estimators.perturbations.base import Perturbation
from fglight.estimators.perturbations.estimate import BlockDerivative, Estimate, TargetGradient
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
        if self._constant(guess) is not None:
            return ""  # the gradient of the whole batch
        call, name = here.owners.get(parameter, (None, ""))
        cost = "a backward pass through the block for each sample"
        if call is None:
            return f"{NO_SINGLE_USE}: {cost}"
        if call not in here.calls_by_sample:
            return f"dimension 0 of what its layer takes in or gives out is not the sample: {cost}"
        if not knows_layer(call, name, parameter):
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
        directions, constant = _directions(here, guess), self._constant(guess)
        estimates, similarity = [], None
        if target is not None or constant is None:
            whole = whole_block(here)
            at_outputs = {}
            if target is not None:
                at_outputs = dict(zip([*here.calls, whole], [*target.inside, target.output]))
                target.release()
            gradients, cosines = {}, []
            for use in parameter_uses(here, whole, guess, directions, at_outputs):
                gradients[use.parameter], of_tensor = self._project(here, use, cosine=cosine)
                cosines.append(of_tensor)
            estimates = [gradients[parameter] for parameter in here.parameters]
            similarity = torch.stack(here.network.batch.mean(cosines)).mean() if cosine else None
        if constant is not None:  # the gradient of the whole batch
            estimates = here.to_parameters(constant * reduce(torch.add, directions) / len(directions), keep=False)
        return Estimate(estimates, similarity)

    def estimate_forward(self, here: BlockPass, derivative: BlockDerivative, guess: Guess) -> list[Tensor]:
        """See ``Perturbation``; for each parameter all samples along their own directions at once."""
        if not self.uses_target(guess):
            return self.estimate(here, None, guess, cosine=False).gradients
        whole, directions = whole_block(here), _directions(here, guess)
        # Directions of all samples take too much memory: they are drawn a second time to be scaled.
        with generators_kept(here.input.device) if guess.draws else nullcontext():
            tangents = [_tangents(here, use) for use in parameter_uses(here, whole, guess, directions)]
        products = derivative(torch.stack([tangent for k in tangents for tangent in k]))  # (uses * k, batch)
        uses = zip(parameter_uses(here, whole, guess, directions), products.split([len(k) for k in tangents]))
        gradients = {use.parameter: self._project(here, use, products=known.mT)[0] for use, known in uses}
        return [gradients[parameter] for parameter in here.parameters]

    def _constant(self, guess: Guess) -> float | None:
        """The factor of all samples' guesses, where it is one and the same and they are not drawn."""
        return None if guess.draws or self.uses_target(guess) else self.coefficient_of(guess).constant

    def _project(
        self, here: BlockPass, use: ParameterUse, *, products: Tensor | None = None, cosine: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        """Project every sample's gradient of one parameter on that sample's guesses, and sum over the batch.

        Args:
            here: the block.
            use: of the parameter.
            products: ⟨t_i, g_im⟩, ``(batch, k)``, where they are known.
            cosine: whether the cosine similarity is wanted, for which a target is needed.

        Returns:
            The estimate in the parameter's shape, and the cosine similarities of t_i and g_i, ``(batch,)``.
        """
        estimates: list[Tensor] = []  # by direction
        raw, coefficients, cosines = [], [], []

        def factors(product: Tensor | None, square: Tensor) -> Tensor:
            raw.append(self.factors(here, use.guess, product, square))
            return raw[-1]

        batch, drawn = here.network.batch, self.coefficient_of(use.guess).random
        # Processes draw for all of their samples together.
        for samples, part in [(slice(None), use)] if drawn and batch.several else use.chunks():
            if use.by_gram:
                inner = InnerProducts.by_gram(part, lengths=cosine)
            else:
                t, g = part.gradients()
                g = g.reshape(*g.shape[:2], -1)  # (k, batch, features)
                inner = InnerProducts.of(
                    None if t is None else t.reshape(len(t), -1), g.transpose(0, 1), lengths=cosine
                )
            known = inner.products if products is None else products[samples]
            c = use.guess.stretched(use.guess.coefficients(known, inner.gram, factors), use.parameter.numel())
            coefficients.append(c)
            if not use.by_gram:
                sums = [row.to(g.dtype) @ direction for row, direction in zip(c.mT, g)]
                estimates = [a + b for a, b in zip(estimates, sums)] if estimates else sums
            if cosine:
                cosines.append(inner.cosines(c))
        scale = self.coefficient_of(use.guess).scale(torch.cat(raw), batch) if raw else 1.0
        if use.by_gram:
            estimate = use.pull_back(torch.cat(coefficients) * scale)
        else:
            estimate = (torch.stack(estimates).mT * scale).sum(1).view_as(use.parameter)
        return estimate.to(use.parameter.dtype), torch.cat(cosines) if cosines else None


def whole_block(here: BlockPass) -> LayerCall:
    """The block as if it were a layer, for parameters that no single use of a layer stands for."""
    edge = get_gradient_edge(here.output)
    return LayerCall(here.block.body, here.input, edge, here.output.shape, again=partial(here.again, on_graph=False))


def parameter_uses(
    here: BlockPass,
    whole: LayerCall,
    guess: Guess,
    directions: Sequence[Tensor] | None,
    targets: dict[LayerCall, Tensor] | None = None,
) -> Iterator[ParameterUse]:
    """The use of each trained parameter of a block, with its target and guesses.

    Both are let go of after a layer's last parameter. Random directions are drawn for the parameters themselves, in the
    order of ``body.parameters()``. For other guesses, convolutions and linear layers come last: they take more memory.

    Args:
        here: the block.
        whole: the block as if it were a layer.
        guess: where the directions come from.
        directions: those in the space of h_j, in its shape; None: they are drawn for each parameter.
        targets: the target's cotangents at the outputs of layers; None where they are not needed.
    """
    targets, padding = {} if targets is None else targets, here.padding
    at_outputs: dict[LayerCall, Sequence[Tensor]] = {}
    uses = []
    for parameter in here.parameters:
        call, name = here.owners.get(parameter, (whole, ""))
        uses.append((parameter, *((call, name) if call in here.calls_by_sample else (whole, ""))))
    if directions is not None:
        uses.sort(key=lambda use: type(use[1].layer) in (nn.Linear, *CONVOLUTIONS))
        cotangents = [[*here.vjp(direction, here.calls), direction] for direction in directions]
        at_outputs = dict(zip([*here.calls, whole], zip(*cotangents)))
    left = Counter(call for _, call, _ in uses)
    for parameter, call, name in uses:
        left[call] -= 1
        use = ParameterUse(
            parameter, call, name, guess, padding.get(parameter), targets.get(call), at_outputs.get(call)
        )
        if not left[call]:
            targets.pop(call, None)
            at_outputs.pop(call, None)
        yield use


def _directions(here: BlockPass, guess: Guess) -> Sequence[Tensor] | None:
    """The guesses in the space of h_j, in its shape; None where they are drawn for each parameter."""
    return None if guess.random else list(guess.cotangents(here))


def _tangents(here: BlockPass, use: ParameterUse) -> list[Tensor]:
    """How a block's output moves at every sample along each of that sample's directions of one parameter."""
    if knows_layer(use.call, use.name, use.parameter):
        return [here.jvp_from(use.call, tangent) for tangent in use.tangents()]
    name = next(name for name, p in here.block.body.named_parameters() if p is use.parameter)
    return [here.jvp_each(name, g) for g in use.gradients()[1]]
