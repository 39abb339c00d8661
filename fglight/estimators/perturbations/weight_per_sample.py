"""Weight perturbation with a coefficient for each sample and parameter tensor, at the cost of a single layer at a time.

A block's per-sample gradients follow from what each of its layers took in and from the cotangent of what it gave out.
Two backward passes that compute activations only, one for the target and one for the guess, give these cotangents; all
that comes after concerns one layer and a few samples at a time.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.autograd.graph import get_gradient_edge

from fglight.estimators import linalg
from fglight.estimators.guesses.base import Guess
from fglight.estimators.layers import (
    CONVOLUTIONS,
    LayerCall,
    has_outputs,
    layer_outputs,
    per_sample_gradients,
    record_calls,
    unfold,
    unfold_cotangent,
    unfolded_shape,
)
from fglight.estimators.passes import BlockPass
from fglight.estimators.perturbations.base import BlockDerivative, Estimate, Perturbation
from fglight.estimators.targets import TargetGradient
from fglight.estimators.units import Granularity

CHUNK = 2**22
"""How many numbers a temporary of one layer may hold: samples are taken so many at a time."""


class WeightPerSamplePerturbation(Perturbation):
    """As ``WeightPerturbation``, but target t_i, guess g_i and coefficient c_i per sample, summed (Eq. 4 per sample).

    t_i is sample i's share of the batch gradient: what a layer's input and the cotangent of its output contribute at
    sample i. Their sum over the batch is the batch gradient, also where batch norm couples the samples. For a parameter
    that no single use of a layer stands for (attention's projections, a layer used twice), it is what the cotangent of
    the block's output contributes at sample i, at the cost of a backward pass through the block for each sample.
    """

    granularities: ClassVar = {"tensor": Granularity()}
    draws_twice = True

    def recording(self, body: nn.Module) -> AbstractContextManager[list[LayerCall]]:
        """Record what the layers take in while a block runs."""
        return record_calls(body)

    def points(self, here: BlockPass, guess: Guess, *, cosine: bool) -> Sequence[Tensor | LayerCall]:
        """See ``Perturbation``: the outputs of the layers."""
        return here.calls

    def estimate(self, here: BlockPass, target: TargetGradient, guess: Guess, *, cosine: bool) -> Estimate:
        """See ``Perturbation``; the cosine is the mean over samples and parameter tensors."""
        whole = whole_block(here)
        at_outputs = dict(zip([*here.calls, whole], [*target.inside, target.output]))
        target.release()
        gradients, cosines = {}, []
        for parameter, call, name, t, g in parameter_guesses(here, whole, guess, at_outputs):
            gradients[parameter], similarity = project(call, name, parameter, t, g, guess, cosine=cosine)
            cosines += [] if similarity is None else [similarity]
        similarity = here.network.batch.mean([torch.stack(cosines).mean()])[0] if cosine else None
        return Estimate([gradients[parameter] for parameter in here.parameters], similarity)

    def estimate_forward(self, here: BlockPass, derivative: BlockDerivative, guess: Guess) -> list[Tensor]:
        """See ``Perturbation``; for each parameter all samples along their own directions at once."""
        whole = whole_block(here)
        devices = [here.input.device] if here.input.device.type != "cpu" else []
        # Directions of all samples take too much memory: they are drawn a second time to be scaled.
        with torch.random.fork_rng(devices, enabled=guess.drawn, device_type=here.input.device.type):
            tangents = [
                self._tangent(here, parameter, call, name, direction, guess)
                for parameter, call, name, _, direction in parameter_guesses(here, whole, guess)
            ]
        guesses = zip(parameter_guesses(here, whole, guess), derivative(torch.stack(tangents)))
        gradients = {
            parameter: project(call, name, parameter, None, direction, guess, products=products)[0]
            for (parameter, call, name, _, direction), products in guesses
        }
        return [gradients[parameter] for parameter in here.parameters]

    def _tangent(
        self,
        here: BlockPass,
        parameter: nn.Parameter,
        call: LayerCall,
        name: str,
        direction: Tensor | None,
        guess: Guess,
    ) -> Tensor:
        """How a block's output moves at every sample along that sample's direction of one parameter."""
        if has_outputs(call, name):
            return here.jvp_from(call, images(call, name, parameter, direction, guess))
        path = next(path for path, p in here.block.body.named_parameters() if p is parameter)
        return here.jvp_each(path, _directions(call, name, parameter, direction, guess))


def whole_block(here: BlockPass) -> LayerCall:
    """The block as if it were a layer, for parameters that no single use of a layer stands for."""
    edge = get_gradient_edge(here.output)
    return LayerCall(here.block.body, here.input, edge, here.output.shape, again=partial(here.again, on_graph=False))


def parameter_guesses(
    here: BlockPass, whole: LayerCall, guess: Guess, targets: dict[LayerCall, Tensor] | None = None
) -> Iterator[tuple[nn.Parameter, LayerCall, str, Tensor | None, Tensor | None]]:
    """Each trained parameter of a block with the use of the layer that owns it, its name there, target and guess.

    Target and guess are cotangents of that layer's output, and let go of after the layer's last parameter. Where
    directions are to be drawn for the parameter itself, the guess is None and the parameters come in the order of
    ``body.parameters()``; else convolutions and linear layers, which take more memory, come last.

    Args:
        here: the block.
        whole: the block as if it were a layer.
        guess: where the guesses come from.
        targets: the target's cotangents at the outputs of layers; None where they are not needed.
    """
    targets = {} if targets is None else targets
    directions: dict[LayerCall, Tensor] = {}
    uses = []
    for parameter in here.parameters:
        call, name = here.owners.get(parameter, (whole, ""))
        uses.append((parameter, *((call, name) if call.by_sample(len(here.input)) else (whole, ""))))
    if not guess.random:
        uses.sort(key=lambda use: type(use[1].layer) in (nn.Linear, *CONVOLUTIONS))
        at_output = guess.activity(here).squeeze(0)
        directions = dict(zip([*here.calls, whole], [*here.vjp(at_output, here.calls), at_output]))
    left = Counter(call for _, call, _ in uses)
    for parameter, call, name in uses:
        left[call] -= 1
        t, g = targets.get(call), directions.get(call)
        if not left[call]:
            targets.pop(call, None)
            directions.pop(call, None)
        yield parameter, call, name, t, g


def project(
    call: LayerCall,
    name: str,
    parameter: nn.Parameter,
    target: Tensor | None,
    direction: Tensor | None,
    guess: Guess,
    *,
    products: Tensor | None = None,
    cosine: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """Project every sample's gradient of one parameter on that sample's guess, and sum over the batch.

    Args:
        call: the use of the layer that owns the parameter, or of the whole block.
        name: of the parameter in its layer, empty for the whole block.
        parameter: the parameter.
        target: cotangent of the layer's output that gives the targets t_i; None where ``products`` are known.
        direction: cotangent that gives the guesses g_i; None: they are drawn from ``guess``.
        guess: turns inner products into coefficients.
        products: <t_i, g_i>, ``(batch,)``, where they are known.
        cosine: whether the cosine similarity is wanted, for which a target is needed.

    Returns:
        The estimate in the parameter's shape, and the mean over samples of the cosine similarity of t_i and g_i.
    """
    by_gram, chunks = _plan(call, name, parameter, drawn=direction is None)
    estimate = torch.zeros_like(parameter)
    coefficients, cosines = [], []
    for chunk in chunks:
        part = replace(call, input=call.input[chunk])
        t, g = (None if cotangent is None else cotangent[chunk] for cotangent in (target, direction))
        if by_gram:
            product, square, length = _gram_products(part, t, g, cosine=cosine)
        else:
            # Both at once, for they have the layer's input in common.
            rows = iter(per_sample_gradients(part, name, parameter, [x for x in (t, g) if x is not None]))
            t = None if t is None else next(rows).flatten(1)  # (rows, features)
            g = (_draw(part, parameter, guess) if g is None else next(rows)).flatten(1)
            product = None if t is None else linalg.products(t, g.unsqueeze(1))[:, 0]  # (rows,)
            square = linalg.gram(g.unsqueeze(1))[:, 0, 0]
            length = linalg.gram(t.unsqueeze(1))[:, 0] if cosine else None
        product = products[chunk] if product is None else product
        coefficients.append(guess.coefficient(product, square))
        if not by_gram:
            estimate += (coefficients[-1].to(g.dtype) @ g).view_as(parameter)
        if cosine:
            units = (x.view(-1, 1, *[1] * dimensions) for x, dimensions in ((product, 1), (square, 2), (product, 1)))
            cosines.append(linalg.cosine(*units, length.view(-1)))
    if by_gram:
        scale = torch.cat(coefficients).view(-1, *[1] * (direction.dim() - 1))
        estimate = call.vjp(parameter, scale.to(direction.dtype) * direction)
    return estimate, torch.cat(cosines).mean() if cosines else None


def images(call: LayerCall, name: str, parameter: nn.Parameter, direction: Tensor | None, guess: Guess) -> Tensor:
    """How a layer's output changes at each sample as the parameter moves along that sample's guess: J_i g_i.

    Args:
        call: the use of the layer that owns the parameter.
        name: of the parameter in its layer.
        parameter: the parameter.
        direction: cotangent of the layer's output that gives the guesses g_i; None: they are drawn from ``guess``.
        guess: where they are drawn from.

    Returns:
        A tangent of the layer's output, in its shape.
    """
    _, chunks = _plan(call, name, parameter, drawn=direction is None)
    tangents = []
    for chunk in chunks:
        part = replace(call, input=call.input[chunk])
        g = _directions(part, name, parameter, None if direction is None else direction[chunk], guess)
        tangents.append(layer_outputs(part, name, g))
    return torch.cat(tangents).view(call.shape)


def _directions(call: LayerCall, name: str, parameter: nn.Parameter, cotangent: Tensor | None, guess: Guess) -> Tensor:
    """The guesses g_i of a parameter, ``(rows, *parameter.shape)``."""
    if cotangent is None:
        return _draw(call, parameter, guess)
    return per_sample_gradients(call, name, parameter, [cotangent])[0]


def _draw(call: LayerCall, parameter: nn.Parameter, guess: Guess) -> Tensor:
    """A random direction for each sample, ``(rows, *parameter.shape)``."""
    return guess.sample(parameter.detach().expand(len(call.input), *parameter.shape))


def _plan(call: LayerCall, name: str, parameter: nn.Parameter, *, drawn: bool) -> tuple[bool, list[slice]]:
    """Whether P x P Gram matrices are cheaper than per-sample gradients, and which samples to take at once."""
    batch = len(call.input)
    by_gram, rows = False, batch
    if name == "weight" and type(call.layer) in (nn.Conv2d, nn.Linear):
        groups, outputs, positions = unfolded_shape(call)
        inputs = parameter.numel() // (groups * outputs)
        by_gram = not drawn and positions**2 * (inputs + 2 * outputs) < 2 * positions * inputs * outputs
        temporary = inputs * positions + 2 * (positions**2 if by_gram else inputs * outputs)
        rows = max(1, min(batch, CHUNK // (groups * temporary)))
    return by_gram, [slice(start, start + rows) for start in range(0, batch, rows)]


def _gram_products(
    call: LayerCall, target: Tensor | None, direction: Tensor, *, cosine: bool
) -> tuple[Tensor | None, Tensor, Tensor | None]:
    """<t_i, g_i>, |g_i|^2 and |t_i|^2 of a convolution's or linear layer's weight, each ``(rows,)``, where wanted."""
    columns = unfold(call.layer, call.input)  # (rows, groups, K, P)
    inputs = (columns.mT @ columns).flatten(1)  # (rows, groups * P * P)
    g = unfold_cotangent(call.layer, direction)  # (rows, groups, O, P)
    t = None if target is None else unfold_cotangent(call.layer, target)

    def product(left: Tensor, right: Tensor) -> Tensor:
        return linalg.products(inputs, (left.mT @ right).flatten(1).unsqueeze(1))[:, 0]

    return (None if t is None else product(t, g)), product(g, g), product(t, t) if cosine else None
