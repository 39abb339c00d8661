"""Perturbations (Sec. 3.3): the space in which a target is projected on a guess."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, ClassVar

from torch import Tensor, nn

from fglight.estimators.coefficients import COEFFICIENTS, Coefficient, Function
from fglight.estimators.guesses.base import Guess
from fglight.estimators.layers import LayerCall
from fglight.estimators.passes import BlockPass
from fglight.estimators.perturbations.estimate import BlockDerivative, BlockTarget, Estimate, TargetGradient
from fglight.estimators.units import Granularity


class Perturbation(ABC):
    """Turns the targets and guesses of all blocks into estimates of their gradients.

    Reverse mode hands the targets to ``__call__``. Forward mode has no targets. Where few coefficients are wanted
    (``in_one_run``), it asks for ``guesses`` and ``moves`` while it runs a block, and at last for ``from_sums``, with
    the inner products. For others it first runs all blocks, and then asks for ``estimate_forward`` one by one.

    Args:
        granularity: what one coefficient stands for; None takes the first of ``granularities``, which is the paper's.
        coefficient: the factor of a direction, one of ``COEFFICIENTS`` or of your own; None: the guess's own.

    Attributes:
        granularities: what it can be.
        in_parameters: whether it projects in the space of theta_j, not of h_j.
        by_sample: whether every sample has coefficients of its own, so that the estimate is a sum over samples.
        spans: whether it projects on directions of several samples at once.
        draws_twice: whether forward mode draws random directions a second time, instead of keeping them.

    Raises:
        ValueError: for any other granularity or coefficient.
    """

    granularities: ClassVar[Mapping[str, Granularity]] = {"sample": Granularity(1)}
    in_parameters = True
    by_sample = True
    spans = False
    draws_twice = False

    def __init__(self, granularity: str | None = None, coefficient: str | Coefficient | None = None) -> None:
        self.granularity = granularity or next(iter(self.granularities))
        if self.granularity not in self.granularities:
            raise ValueError(
                f"perturb.granularity={granularity} means nothing for {type(self).__name__}: "
                f"accepted is {', '.join(self.granularities)}"
            )
        self.units = self.granularities[self.granularity]
        if isinstance(coefficient, str) and coefficient not in COEFFICIENTS:
            raise ValueError(
                f"perturb.coefficient={coefficient} does not exist: accepted is null, {', '.join(COEFFICIENTS)}"
            )
        self.coefficient = COEFFICIENTS[coefficient] if isinstance(coefficient, str) else coefficient

    def coefficient_of(self, guess: Guess) -> Coefficient:
        """The coefficient that is used with a guess."""
        chosen = self.coefficient or guess.coefficient
        return chosen if isinstance(chosen, Coefficient) else Function(chosen)

    def uses_target(self, guess: Guess) -> bool:
        """Whether an estimate depends on the target at all."""
        return self.spans or guess.combine in ("span", "max") or self.coefficient_of(guess).uses_products

    def factors(self, here: BlockPass, guess: Guess, product: Tensor | None, square: Tensor) -> Tensor:
        """The factors of directions; see ``Coefficient``.

        Of those that are drawn, factors of samples are each process's own, and others the same in all.
        """
        coefficient, batch = self.coefficient_of(guess), here.network.batch
        if self.by_sample and coefficient.random:
            return batch.rows(coefficient, product, square)
        factors = coefficient(product, square)
        return batch.first(factors) if coefficient.random and guess.draws_samples else factors

    def check(self, guess: Guess) -> None:
        """Refuse what means nothing with it, of a guess or a coefficient.

        Raises:
            ValueError: in one line.
        """
        if guess.only_weight and self.by_sample:
            raise ValueError(
                f"{type(self).__name__} is not possible with {type(guess).__name__}, whose directions are of the whole "
                "batch's weights: accepted is perturb=weight"
            )
        if self.spans and guess.rescale:
            raise ValueError(f"guess.rescale=true is not possible with {type(self).__name__}: accepted is false")
        spans = self.spans or guess.combine == "span"

        def fits(coefficient: Coefficient) -> bool:
            return coefficient.projects if spans else self.by_sample or not coefficient.by_sample

        chosen = self.coefficient_of(guess)
        if not fits(chosen) and not (spans and self.coefficient is None):
            where = "guess.combine=span" if spans and not self.spans else type(self).__name__
            raise ValueError(
                f"perturb.coefficient={chosen.name} is not possible with {where}: "
                f"accepted is {', '.join(name for name, kind in COEFFICIENTS.items() if fits(kind))}"
            )

    def slow(self, here: BlockPass, parameter: nn.Parameter, guess: Guess, *, aims: bool) -> str:
        """Why a parameter has no fast path, and what that costs.

        Args:
            here: its block, which has run with ``record_calls``.
            parameter: one of ``here.parameters``.
            guess: where the directions come from.
            aims: whether a target is computed.

        Returns:
            The reason in words; empty where it has one.
        """
        return ""

    def recording(self, body: nn.Module) -> AbstractContextManager[list[LayerCall]]:
        """A context in which ``body`` runs once; its value is what the perturbation wants to know of its layers."""
        return nullcontext([])

    def points(self, here: BlockPass, guess: Guess, *, cosine: bool) -> Sequence[Tensor | LayerCall]:
        """Where inside a block its target is needed, besides its output: parameters, or the outputs of layers."""
        return []

    def reuses_graph(self, guess: Guess) -> bool:
        """Whether a block's graph is needed once its target is known."""
        return True

    def __call__(
        self, targets: Iterable[BlockTarget], guess: Guess, *, cosine: bool = False
    ) -> Iterator[tuple[BlockPass, Estimate]]:
        """The estimates of blocks 0..J-2, in any order; those without parameters are left out.

        Args:
            targets: blocks J-2 down to 0 with their targets; None where neither coefficients (``uses_target``) nor the
                cosine need one.
            guess: where the guesses come from.
            cosine: whether the cosine similarity of guess and target is wanted too.

        Yields:
            A block and its estimate.
        """
        for here, target in self.in_drawing_order(targets, guess):
            estimate = self.estimate(here, target, guess, cosine=cosine)
            if target is not None:
                target.release()
            yield here, estimate

    def in_drawing_order(self, targets: Iterable[BlockTarget], guess: Guess) -> Iterable[BlockTarget]:
        """The targets of blocks with parameters: as they come, or where directions must be drawn, from block 0 on."""
        targets = (target for target in targets if target[0].parameters)
        return reversed(list(targets)) if guess.drawn and not self.draws_early(guess) else targets

    @abstractmethod
    def estimate(self, here: BlockPass, target: TargetGradient | None, guess: Guess, *, cosine: bool) -> Estimate:
        """The estimate of one block.

        Args:
            here: the block.
            target: its target, as in ``__call__``.
            guess: where the guesses come from.
            cosine: whether the cosine similarity of guess and target is wanted too.

        Returns:
            A gradient for each parameter, and the cosine.
        """

    def draws_early(self, guess: Guess) -> bool:
        """Whether a guess's directions are drawn as soon as a block has run, so that no target has to wait for them."""
        return False

    def directions(self, here: BlockPass, guess: Guess) -> Any:
        """The directions of a block in the perturbation's space: those drawn early, if any were.

        Args:
            here: the block, which has run.
            guess: where they come from.
        """
        raise NotImplementedError(f"{type(self).__name__} draws no directions early")

    @property
    def in_one_run(self) -> bool:
        """Forward mode: whether a coefficient stands for so much that one run carries the tangents of all of them."""
        return False

    def guesses(self, here: BlockPass, guess: Guess) -> list[Tensor]:
        """Forward mode in one run: the directions in the space of a block's parameters.

        Args:
            here: the block, which need not have run.
            guess: where they come from.

        Returns:
            ``(units, k, features)`` for each of ``here.parameters``.
        """
        raise self._without_forward_mode()

    def moves(self, here: BlockPass, guesses: Sequence[Tensor], guess: Guess) -> list[dict[str, Tensor]]:
        """Forward mode in one run: what moves along each of a block's directions.

        Args:
            here: the block, which need not have run.
            guesses: what ``guesses`` gave.
            guess: where they came from.

        Returns:
            For each coefficient and, in it, for each of its k directions: tangents of parameters, by their names.
        """
        raise self._without_forward_mode()

    def from_sums(
        self,
        passes: Sequence[BlockPass],
        guesses: Sequence[Sequence[Tensor]],
        sums: Sequence[Tensor] | None,
        guess: Guess,
    ) -> list[list[Tensor]]:
        """Forward mode in one run: the estimates of several blocks.

        Args:
            passes: the blocks; all of them where one coefficient stands for the network, else one.
            guesses: of each block, what ``guesses`` gave.
            sums: inner products of target and directions for each of a block's ``moves``; None where the coefficient
                needs none.
            guess: turns them into coefficients of the estimate.

        Returns:
            For each block, a tensor for each of its parameters.
        """
        raise self._without_forward_mode()

    def estimate_forward(self, here: BlockPass, derivative: BlockDerivative, guess: Guess) -> list[Tensor]:
        """Forward mode in two runs: the estimate of one block.

        Args:
            here: the block.
            derivative: of its target.
            guess: where the guesses come from.

        Returns:
            A tensor for each of its parameters.
        """
        raise self._without_forward_mode()

    def _without_forward_mode(self) -> ValueError:
        return ValueError(f"engine=forward is not possible with {type(self).__name__}: accepted is engine=reverse")
