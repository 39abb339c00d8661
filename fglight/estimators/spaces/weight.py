"""Weight perturbation: the projection takes place in the space of a block's parameters."""

from collections.abc import Iterator
from typing import ClassVar

from fglight.autodiff.passes import BlockPass
from fglight.estimators.guesses.base import Guess
from fglight.estimators.spaces.base import Perturbation
from fglight.estimators.spaces.parts import Granularity, WeightPart


class WeightPerturbation(Perturbation):
    """The batch gradient with respect to theta_j projected on the guess in the same space (Eq. 4).

    One coefficient stands for a parameter ``tensor`` (as in the released code), a ``block`` (all of theta_j, Eq. 4 read
    literally), the whole ``network`` (Baydin et al. 2022), or as little as a ``filter``: an output channel of a
    convolution, a row of a linear layer's weight, an entry of a bias or scale.
    """

    granularities: ClassVar = {
        "tensor": Granularity(),
        "block": Granularity(joins_tensors=True),
        "network": Granularity(joins_tensors=True, joins_blocks=True),
        "filter": Granularity(dimensions=1),
    }
    in_parameters = True
    by_sample = False

    def directions(self, block_pass: BlockPass, guess: Guess, *, cosine: bool = False) -> Iterator[WeightPart]:
        """See ``Perturbation``; the same in all processes. Those that are drawn are drawn one after the other."""
        pulled = (
            block_pass.network.batch.sum(block_pass.pull_back(guess.directions(block_pass))) if guess.pulled else None
        )
        likes = [p.detach() for p in block_pass.parameters]
        directions = iter(guess.in_space(block_pass, pulled, likes, by_sample=False))
        for parameter in block_pass.parameters:
            g = next(directions)
            if not guess.is_gradient:
                g = block_pass.without_padding(parameter, g, fresh=guess.random)
            yield WeightPart(block_pass, parameter, g.unsqueeze(1), self.units)
            del g
