"""Weight perturbation: the projection takes place in the space of a block's parameters."""

from typing import ClassVar

from torch import nn

from fglight.estimators.guesses.base import Guess
from fglight.estimators.layers.calls import NO_SINGLE_USE
from fglight.estimators.layers.kinds import KINDS
from fglight.estimators.passes import BlockPass
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

    def directions(self, here: BlockPass, guess: Guess, *, cosine: bool = False) -> list[WeightPart]:
        """See ``Perturbation``; the same in all processes."""
        pulled = here.network.batch.sum(here.pull_back(guess.directions(here))) if guess.pulled else None
        directions = guess.in_space(here, pulled, [p.detach() for p in here.parameters], by_sample=False)
        if not guess.is_gradient:
            directions = here.without_padding(directions)
        parts = []
        for parameter, g in zip(here.parameters, directions):
            own, call = (here, parameter, g.unsqueeze(1), self.units), here.weight_calls.get(parameter)
            alone = len(g) == 1 and call is not None
            parts.append(LayerPart(*own, call, cosine=cosine) if alone else WeightPart(*own))
        return parts

    def slow(self, here: BlockPass, parameter: nn.Parameter, guess: Guess, *, aims: bool) -> str:
        """See ``Perturbation``: where the target of a weight is computed."""
        layers = [m for m in here.block.body.modules() if type(m) in KINDS and KINDS[type(m)].moves_by_weight]
        if not aims or not any(parameter is layer.weight for layer in layers):
            return ""
        cost = "its target is computed, as much as a weight gradient in backpropagation"
        if guess.count(here.block) > 1:
            return f"several directions: {cost}"
        return "" if parameter in here.weight_calls else f"{NO_SINGLE_USE}: {cost}"
