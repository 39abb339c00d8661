"""Weight perturbation with a coefficient for each sample and parameter tensor, at the cost of a single layer at a time.

A block's per-sample gradients follow from what each of its layers took in and from the cotangent of what it gave out.
Two backward passes that compute activations only, one for the target and one for the guess, give these cotangents; all
that comes after concerns one layer and a few samples at a time.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.autograd.graph import get_gradient_edge

from fglight.estimators.guesses import Guess, RandomGuess
from fglight.estimators.layers import LayerCall, per_sample_gradients, record_calls, unfold, unfold_cotangent
from fglight.estimators.passes import BlockPass
from fglight.estimators.perturbations import BlockTarget, Estimate, Perturbation, in_drawing_order, mean_cosine

CHUNK = 2**24
"""How many numbers a temporary of one layer may hold: samples are taken so many at a time."""


class WeightPerSamplePerturbation(Perturbation):
    """As ``WeightPerturbation``, but target t_i, guess g_i and coefficient c_i per sample, summed (Eq. 4 per sample).

    t_i is sample i's share of the batch gradient: what a layer's input and the cotangent of its output contribute at
    sample i. Their sum over the batch is the batch gradient, also where batch norm couples the samples. For a parameter
    that no single use of a layer stands for (attention's projections, a layer used twice), it is what the cotangent of
    the block's output contributes at sample i, at the cost of a backward pass through the block for each sample.
    """

    granularities = ("tensor",)

    def recording(self, body: nn.Module) -> AbstractContextManager[list[LayerCall]]:
        """Record what the layers take in while a block runs."""
        return record_calls(body)

    def points(self, here: BlockPass, *, cosine: bool) -> Sequence[Tensor | LayerCall]:
        """See ``Perturbation``: the outputs of the layers."""
        return here.calls

    def __call__(
        self, targets: Iterable[BlockTarget], guess: Guess, *, cosine: bool = False
    ) -> Iterator[tuple[BlockPass, Estimate]]:
        """See ``Perturbation``; the cosine is the mean over samples and parameter tensors."""
        for here, target in in_drawing_order(targets, guess):
            drawn = isinstance(guess, RandomGuess)
            directions = [None] * len(here.calls) if drawn else here.vjp(guess.activity(here), here.calls)
            cotangents = dict(zip(here.calls, zip(target.inside, directions)))
            whole = LayerCall(here.block.body, here.input, get_gradient_edge(here.output), here.output.shape)
            cotangents[whole] = (target.output, None if drawn else guess.activity(here))
            gradients, cosines = [], []
            # In the order of body.parameters(), because random guesses are drawn in it.
            for parameter in here.parameters:
                uses = here.owners.get(parameter, [])
                call, name = uses[0] if len(uses) == 1 else (whole, "")
                gradient, similarity = _project(call, name, parameter, *cotangents[call], guess, cosine)
                gradients.append(gradient)
                cosines += [] if similarity is None else [similarity]
            yield here, Estimate(gradients, torch.stack(cosines).mean() if cosines else None)


def _project(
    call: LayerCall,
    name: str,
    parameter: nn.Parameter,
    target: Tensor,
    direction: Tensor | None,
    guess: Guess,
    cosine: bool,
) -> tuple[Tensor, Tensor | None]:
    """Project every sample's gradient of one parameter on that sample's guess, and sum over the batch.

    Args:
        call: the use of the layer that owns the parameter, or of the whole block.
        name: of the parameter in its layer, empty for the whole block.
        parameter: the parameter.
        target: cotangent of the layer's output that gives the targets t_i.
        direction: cotangent that gives the guesses g_i; None: they are drawn from ``guess``.
        guess: turns inner products into coefficients.
        cosine: whether the cosine similarity is wanted.

    Returns:
        The estimate in the parameter's shape, and the mean over samples of the cosine similarity of t_i and g_i.
    """
    by_gram, rows = _plan(call, name, target, drawn=direction is None)
    estimate = torch.zeros_like(parameter)
    coefficients, cosines = [], []
    for start in range(0, len(target), rows):
        chunk = slice(start, start + rows)
        part = replace(call, input=call.input[chunk])
        if by_gram:
            product, square, length = _gram_products(part, target[chunk], direction[chunk], cosine)
            coefficients.append(guess.coefficient(product, square))
        else:
            cotangents = [target[chunk], *([] if direction is None else [direction[chunk]])]
            t, *g = per_sample_gradients(part, name, parameter, cotangents)  # each (rows, *parameter.shape)
            t, g = t.flatten(1), (guess.sample(t) if direction is None else g[0]).flatten(1)
            product, square = torch.linalg.vecdot(t, g), torch.linalg.vecdot(g, g)  # (rows,)
            length = torch.linalg.vecdot(t, t) if cosine else None
            estimate += (guess.coefficient(product, square).to(g.dtype) @ g).view_as(parameter)
        if length is not None:
            cosines.append(mean_cosine(product, square, length) * len(product) / len(target))
    if by_gram:
        scale = torch.cat(coefficients).view(-1, *[1] * (direction.dim() - 1))
        estimate = torch.autograd.grad(
            call.output, parameter, scale.to(direction.dtype) * direction, retain_graph=True
        )[0]
    return estimate, torch.stack(cosines).sum() if cosines else None


def _plan(call: LayerCall, name: str, target: Tensor, *, drawn: bool) -> tuple[bool, int]:
    """Whether P x P Gram matrices are cheaper than per-sample gradients, and how many samples to take at once."""
    batch = len(target)
    if name != "weight" or type(call.layer) not in (nn.Conv2d, nn.Linear):
        return False, batch
    _, groups, outputs, positions = unfold_cotangent(call.layer, target[:1]).shape
    inputs = getattr(call.layer, name).numel() // (groups * outputs)
    by_gram = not drawn and positions**2 * (inputs + 2 * outputs) < 2 * positions * inputs * outputs
    temporary = inputs * positions + 2 * (positions**2 if by_gram else inputs * outputs)
    return by_gram, max(1, min(batch, CHUNK // (groups * temporary)))


def _gram_products(
    call: LayerCall, target: Tensor, direction: Tensor, cosine: bool
) -> tuple[Tensor, Tensor, Tensor | None]:
    """<t_i, g_i>, |g_i|^2 and, where wanted, |t_i|^2 of a convolution's or linear layer's weight, each ``(rows,)``."""
    columns = unfold(call.layer, call.input)  # (rows, groups, K, P)
    t, g = unfold_cotangent(call.layer, target), unfold_cotangent(call.layer, direction)  # (rows, groups, O, P)
    inputs = (columns.mT @ columns).flatten(1)  # (rows, groups * P * P)

    def product(left: Tensor, right: Tensor) -> Tensor:
        return torch.linalg.vecdot(inputs, (left.mT @ right).flatten(1))

    return product(t, g), product(g, g), product(t, t) if cosine else None
