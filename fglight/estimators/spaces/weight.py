"""Weight perturbation: the projection takes place in the space of a block's parameters."""

from typing import ClassVar

from torch import nn

from fglight.autodiff.layers.calls import NO_SINGLE_USE
from fglight.autodiff.layers.kinds import KINDS
from fglight.autodiff.passes import BlockPass
from fglight.estimators.guesses.base import Guess
from fglight.estimators.spaces.base import Perturbation
from fglight.estimators.spaces.parts import Granularity, LayerPart, WeightPart


class WeightPerturbation(Perturbation):
    """The batch gradient with respect to theta_j projected on the guess in the same space (Eq. 4).

    One coefficient stands for a parameter ``tensor`` (as in the released code), a ``block`` (all of theta_j, Eq. 4 read
    literally), the whole ``network`` (Baydin et al. 2022), or as little as a ``filter``: an output channel of a
    convolution, a row of a linear layer's weight, an entry of a bias or scale.

    The target enters through its inner product with the guess alone, so that weights with a single direction do
    without their gradient; see ``LayerPart``.
    """

    granularities: ClassVar = {
        "tensor": Granularity(),
        "block": Granularity(joins_tensors=True),
        "network": Granularity(joins_tensors=True, joins_blocks=True),
        "filter": Granularity(dimensions=1),
    }
    in_parameters = True
    by_sample = False

    def directions(self, block_pass: BlockPass, guess: Guess, *, cosine: bool = False) -> list[WeightPart]:
        """See ``Perturbation``; the same in all processes."""
        pulled = (
            block_pass.network.batch.sum(block_pass.pull_back(guess.directions(block_pass))) if guess.pulled else None
        )
        directions = guess.in_space(block_pass, pulled, [p.detach() for p in block_pass.parameters], by_sample=False)
        if not guess.is_gradient:
            directions = block_pass.without_padding(directions)
        parts = []
        for parameter, g in zip(block_pass.parameters, directions):
            own, call = (block_pass, parameter, g.unsqueeze(1), self.units), block_pass.weight_calls.get(parameter)
            parts.append(WeightPart(*own) if call is None or len(g) > 1 else LayerPart(*own, call, cosine=cosine))
        return parts

    def slow(self, block_pass: BlockPass, parameter: nn.Parameter, guess: Guess, *, aims: bool) -> str:
        """See ``Perturbation``: where the target of a weight is computed."""
        layers = [m for m in block_pass.block.body.modules() if type(m) in KINDS and KINDS[type(m)].moves_by_weight]
        if not aims or not any(parameter is layer.weight for layer in layers):
            return ""
        cost = "its target is computed, as much as a weight gradient in backpropagation"
        if guess.count(block_pass.block) > 1:
            return f"several directions: {cost}"
        return "" if parameter in block_pass.weight_calls else f"{NO_SINGLE_USE}: {cost}"
