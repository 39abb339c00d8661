"""What every engine is: a way to compute inner products with a target."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from fglight.autodiff.diagnosis import differentiate_once
from fglight.autodiff.passes import NetworkPass
from fglight.estimators.guesses.base import Guess
from fglight.estimators.spaces.base import Perturbation
from fglight.estimators.spaces.parts import Part
from fglight.models.blocks import Block

Products = tuple[Iterable[Part], Sequence[Tensor] | None, Sequence[Tensor] | None]
"""Parts that share coefficients; this process's inner products ⟨t, g⟩ of each, or their sum over all that are one unit,
None where no target is needed; |t|² of each part's units, where the cosine or the coefficient needs them."""


class Engine(ABC):
    """Computes the estimates of a step.

    Attributes:
        name: of the setting, for messages.
        remedy: what can be done where a layer cannot be differentiated.
        has_targets: whether targets themselves are known, not only inner products with them.
    """

    name: str
    remedy: str
    has_targets = True

    @abstractmethod
    def products(self, network: NetworkPass, guess: Guess, space: Perturbation, *, cosine: bool) -> Iterator[Products]:
        """Run the blocks, which are in ``network.passes`` then, as are all gradients but those of blocks 0..J-2.

        Args:
            network: before any block has run; its ``losses`` are the target.
            guess: the direction it is projected on.
            space: the space of the projection.
            cosine: whether the cosine similarity of guess and target is wanted.

        Yields:
            One ``Products`` after the other. Once the next is asked for, a block may be let go of.
        """

    @contextmanager
    def context(self) -> Iterator[None]:
        """What a step is taken in: here, with gradients."""
        with torch.enable_grad():
            yield

    def check(self, guess: Guess, space: Perturbation) -> None:  # noqa: B027 (not all refuse something)
        """Refuse what cannot be computed.

        Args:
            guess: the direction.
            space: of the projection.

        Raises:
            ValueError: in one line.
        """

    def check_network(  # noqa: B027
        self, blocks: Sequence[Block], images: Tensor, guess: Guess, space: Perturbation
    ) -> None:
        """Refuse a network that cannot be computed with; called before every step.

        Args:
            blocks: the network.
            images: a batch.
            guess: the direction.
            space: of the projection.

        Raises:
            BlockError: naming the layer.
        """

    def check_compiled(self, guess: Guess, space: Perturbation) -> None:  # noqa: B027
        """Refuse what would not replay as it was recorded.

        Args:
            guess: the direction.
            space: of the projection.

        Raises:
            ValueError: in one line.
        """

    def differentiate(self, body: nn.Module, x: Tensor, *, last: bool, crossed: bool, parameters: bool) -> None:
        """Do to a body what a step does: here, take gradients of its output.

        Args:
            body: a block's layers, which may run once more.
            x: what they take in.
            last: whether the block is the last one.
            crossed: whether there are blocks before it, whose targets go through it.
            parameters: whether derivatives along parameters are needed.

        Raises:
            RuntimeError: it cannot be done.
        """
        differentiate_once(body, x, crossed=crossed)
