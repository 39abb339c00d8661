"""Coefficients: the factor c that makes of a direction g an estimate c g of a target t."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from math import inf, isfinite
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor

from fglight.autodiff import linalg
from fglight.autodiff.batch import Batch

EPS = 1e-16
"""Added to squared norms of directions before dividing by them."""


@dataclass(frozen=True)
class Units:
    """What is known of the units of a block, or of all blocks where these are one unit.

    Attributes:
        products: inner products ⟨t, g⟩, ``(samples, units, k)``; None where no coefficient needs them.
        squares: |g|², the same shape.
        targets: |t|², ``(samples, units)``; None where no coefficient needs it.
        block: the index of the block.
        batch: the batch of the step.
    """

    products: Tensor | None
    squares: Tensor
    targets: Tensor | None
    block: int
    batch: Batch


class Coefficient(ABC):
    """A rule for the factor of a direction; there is one factor for each unit of the perturbation's granularity.

    A coefficient of your own needs ``__call__`` alone.

    Attributes:
        name: of the setting.
        takes: what follows the name behind a colon, in words; empty for nothing.
        uses_products: whether ⟨t, g⟩ matters; without, no target and no derivative is computed.
        due: whether it does in this step.
        period: after how many steps it is due again.
        uses_targets: whether |t|² matters, too.
        projects: whether c g is the orthogonal projection on g, which alone can become one on the span of several.
        by_sample: whether it means something for coefficients of single samples only (True) or of the whole batch only
            (False); None: for all.
        random: whether it is drawn.
        constant: the factor, where it is one and the same always.
    """

    name = "your own"
    takes = ""
    uses_products = True
    due = True
    period: float = 1
    uses_targets = False
    projects = False
    by_sample: bool | None = None
    random = False
    constant: float | None = None

    @abstractmethod
    def __call__(self, product: Any, square: Tensor) -> Tensor:
        """The factors.

        Args:
            product: inner products ⟨t, g⟩, a tensor of any shape; may be None where they are not used.
            square: squared norms |g|^2, same shape.
        """

    def factors(self, units: Units) -> Tensor:
        """The factors of units, in the shape of their ``squares``: where they depend on more than ``__call__`` gets."""
        return self(units.products, units.squares)

    def prepare(self) -> None:  # noqa: B027 (not all have something to prepare)
        """Prepare for a step, before its forward pass."""

    def state_dict(self) -> dict[str, Any]:
        """What lasts from step to step, for a checkpoint."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:  # noqa: B027
        """Go on from a checkpoint's state; from an empty one, as before the first step."""


class Projection(Coefficient):
    """⟨t, g⟩ / (|g|^2 + eps): c g is the orthogonal projection of t on g (Eqs. 4 and 5)."""

    name = "projection"
    projects = True

    def __call__(self, product: Tensor, square: Tensor) -> Tensor:
        """See ``Coefficient``."""
        return product / (square + EPS)


class InnerProduct(Coefficient):
    """⟨t, g⟩: unbiased for random directions of unit covariance (Eq. 1)."""

    name = "inner"

    def __call__(self, product: Tensor, square: Tensor) -> Tensor:
        """See ``Coefficient``."""
        return product


class Sign(Coefficient):
    """The sign of ⟨t, g⟩: of the derivative, only whether to go forwards or backwards."""

    name = "sign"

    def __call__(self, product: Tensor, square: Tensor) -> Tensor:
        """See ``Coefficient``."""
        return product.sign()


class RandomSign(Coefficient):
    """+1 or -1 with equal probability, whatever the target: a control."""

    name = "random_sign"
    uses_products = False
    random = True

    def __call__(self, product: Tensor | None, square: Tensor) -> Tensor:
        """See ``Coefficient``; from torch's default generator."""
        return linalg.random_signs(square)


class Positive(Coefficient):
    """n/n+ where ⟨t, g⟩ > 0, else 0, for n samples of which n+ have a positive product; all are 0 where none has."""

    name = "positive"
    by_sample = True

    def __call__(self, product: Tensor, square: Tensor) -> Tensor:
        """See ``Coefficient``: as if all were positive."""
        return (product > 0).to(product.dtype)

    def factors(self, units: Units) -> Tensor:
        """See ``Coefficient``: n/n+ of the samples of all processes."""
        positive = super().factors(units)
        (share,) = units.batch.mean([positive])
        return positive * torch.where(share > 0, share.reciprocal(), 0)


class Constant(Coefficient):
    """k, whatever the target: with a local guess, local learning at k times the learning rate for the blocks.

    Args:
        k: the factor.

    Raises:
        ValueError: for what is no number above 0.
    """

    name = "constant"
    takes = "a number above 0"
    uses_products = False

    def __init__(self, k: float | str) -> None:
        self.k = self.constant = _number(self, k, isfinite)

    def __call__(self, product: Tensor | None, square: Tensor) -> Tensor:
        """See ``Coefficient``."""
        return torch.full_like(square, self.k)


class One(Constant):
    """One: the direction itself, whatever the target. With a local guess, this is local learning."""

    name = "one"
    takes = ""

    def __init__(self) -> None:
        super().__init__(1)


class Unit(Coefficient):
    """1 / |g|: the direction at unit length, whatever the target; 0 where it is 0."""

    name = "unit"
    uses_products = False

    def __call__(self, product: Tensor | None, square: Tensor) -> Tensor:
        """See ``Coefficient``."""
        return torch.where(square > 0, square, torch.inf).rsqrt()


class Norm(Unit):
    """|t| / |g|: the direction at the target's length, whatever the angle between them."""

    name = "norm"
    uses_products = True
    uses_targets = True

    def factors(self, units: Units) -> Tensor:
        """See ``Coefficient``."""
        assert units.targets is not None
        return super().factors(units) * units.targets.sqrt().unsqueeze(-1)


class Magnitude(Projection):
    """|⟨t, g⟩| / (|g|^2 + eps): the projection's length, always forwards."""

    name = "magnitude"
    projects = False

    def __call__(self, product: Tensor, square: Tensor) -> Tensor:
        """See ``Coefficient``."""
        return super().__call__(product, square).abs()


class AscentFree(Projection):
    """max(0, ⟨t, g⟩) / (|g|^2 + eps): the projection where it goes forwards, and nothing where it goes backwards."""

    name = "ascent_free"
    projects = False

    def __call__(self, product: Tensor, square: Tensor) -> Tensor:
        """See ``Coefficient``."""
        return super().__call__(product, square).clamp_min(0)


class RandomSignMagnitude(Magnitude):
    """±|⟨t, g⟩| / (|g|^2 + eps), the sign drawn with equal probability: the projection's length without its sense."""

    name = "random_sign_magnitude"
    random = True

    def __call__(self, product: Tensor, square: Tensor) -> Tensor:
        """See ``Coefficient``; from torch's default generator."""
        return super().__call__(product, square) * linalg.random_signs(square)


class Shuffled(Projection):
    """The projections' factors, in each step permuted at random among the units of a block: not which one is whose.

    A block of a single unit has its own.
    """

    name = "shuffled"
    projects = False
    random = True

    def factors(self, units: Units) -> Tensor:
        """See ``Coefficient``; from torch's default generator."""
        order = torch.rand(units.squares.shape[1], device=units.squares.device).argsort()
        return super().factors(units)[:, order]


class Stale(Coefficient):
    """Another coefficient's factors, taken anew every K-th step and kept in between: not this batch's.

    The steps between take no derivative at all.

    Args:
        every: K, a whole number, or ``inf``: those of the first step always.
        of: the other coefficient; None: ``Projection``.

    Raises:
        ValueError: for any other K.
    """

    name = "stale"
    takes = "a whole number from 1 on, or inf"
    by_sample = False

    def __init__(self, every: float | str, of: Coefficient | None = None) -> None:
        self.period = _number(self, every, lambda number: number == inf or number.is_integer())
        self.of = of or Projection()
        self.uses_products, self.uses_targets, self.random = self.of.uses_products, self.of.uses_targets, self.of.random
        self.age = -1  # steps since the factors were taken; before the first step they are to be
        self.kept: dict[int, Tensor] = {}

    @property
    def due(self) -> bool:  # type: ignore[override]
        """See ``Coefficient``: in every K-th step."""
        return self.age <= 0

    def prepare(self) -> None:
        """See ``Coefficient``: a step older, or as new."""
        older = self.age + 1
        self.age = 0 if older == self.period else min(older, 1) if self.period == inf else older

    def __call__(self, product: Any, square: Tensor) -> Tensor:
        """See ``Coefficient``: as if they were new."""
        return self.of(product, square)

    def factors(self, units: Units) -> Tensor:
        """See ``Coefficient``."""
        if self.period == 1:
            return self.of.factors(units)
        if self.due:
            self.kept[units.block] = self.of.factors(units).detach()
        return self.kept[units.block].to(units.squares)

    def state_dict(self) -> dict[str, Any]:
        """See ``Coefficient``."""
        return {"age": self.age, "kept": self.kept}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See ``Coefficient``."""
        self.age, self.kept = state.get("age", -1), dict(state.get("kept", {}))


class Recorded(Projection):
    """The projection's factors, whose means over training are part of a checkpoint, for ``Replayed``."""

    name = "recorded"
    projects = False
    by_sample = False

    def __init__(self) -> None:
        self.steps = 0
        self.sums: dict[int, Tensor] = {}

    def prepare(self) -> None:
        """See ``Coefficient``."""
        self.steps += 1

    def factors(self, units: Units) -> Tensor:
        """See ``Coefficient``."""
        factors = super().factors(units).detach()
        self.sums[units.block] = self.sums.get(units.block, torch.zeros_like(factors)) + factors
        return factors

    def state_dict(self) -> dict[str, Any]:
        """See ``Coefficient``."""
        return {"steps": self.steps, "sums": self.sums}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See ``Coefficient``."""
        self.steps, self.sums = state.get("steps", 0), dict(state.get("sums", {}))


class Replayed(Coefficient):
    """What another run's factors were on average over its training, for each unit: nothing of this run's target.

    Args:
        file: the checkpoint of a run with ``Recorded``, of the same network and granularity.

    Raises:
        ValueError: for any other file.
    """

    name = "replayed"
    takes = "the checkpoint of a run with perturb.coefficient=recorded"
    by_sample = False
    uses_products = False

    def __init__(self, file: str) -> None:
        try:
            recorded = torch.load(file, map_location="cpu", weights_only=True)["coefficient"]
            self.means = {block: total / recorded["steps"] for block, total in recorded["sums"].items()}
        except (OSError, RuntimeError, KeyError, TypeError, EOFError, UnpicklingError) as error:
            raise _unlike(self, file) from error

    def __call__(self, product: Tensor | None, square: Tensor) -> Tensor:
        """See ``Coefficient``."""
        raise NotImplementedError("a replayed coefficient depends on the block: see factors")

    def factors(self, units: Units) -> Tensor:
        """See ``Coefficient``.

        Raises:
            ValueError: the other run's blocks have other units.
        """
        mean = self.means.get(units.block)
        if mean is None or mean.shape != units.squares.shape:
            there = "none" if mean is None else tuple(mean.shape)
            raise ValueError(
                f"perturb.coefficient=replayed must have factors of shape {tuple(units.squares.shape)} for block "
                f"{units.block}, as the run that recorded them had, got {there}"
            )
        return mean.to(units.squares)


class Function(Coefficient):
    """A function of products and squared norms, such as a guess's own method."""

    def __init__(self, function: Callable[[Tensor, Tensor], Tensor]) -> None:
        self.function = function

    def __call__(self, product: Tensor, square: Tensor) -> Tensor:
        """See ``Coefficient``."""
        return self.function(product, square)


COEFFICIENTS: dict[str, Callable[..., Coefficient]] = {
    kind.name: kind
    for kind in (
        Projection,
        InnerProduct,
        Sign,
        Positive,
        RandomSign,
        One,
        Constant,
        Unit,
        Norm,
        Magnitude,
        AscentFree,
        RandomSignMagnitude,
        Shuffled,
        Stale,
        Recorded,
        Replayed,
    )
}


def read_coefficient(text: str) -> Coefficient:
    """The coefficient of a setting: a name, and what it takes behind a colon, as in ``constant:0.25``.

    Raises:
        ValueError: there is none of that name, or it takes something else.
    """
    name, colon, given = text.partition(":")
    kind: Any = COEFFICIENTS.get(name)
    if kind is None:
        raise ValueError(f"perturb.coefficient must be null or one of {', '.join(COEFFICIENTS)}, got {text}")
    if bool(colon) != bool(kind.takes):
        raise _unlike(kind, text.removeprefix(name) or "nothing")
    return kind(given) if colon else kind()


def _number(coefficient: Coefficient, given: float | str, fits: Callable[[float], bool]) -> float:
    """A number above 0 that fits.

    Raises:
        ValueError: for anything else.
    """
    with suppress(ValueError):
        number = float(given)
        if number > 0 and fits(number):
            return number
    raise _unlike(coefficient, given)


def _unlike(coefficient: Any, given: object) -> ValueError:
    takes = f"{coefficient.name}:K with K {coefficient.takes}" if coefficient.takes else f"{coefficient.name} alone"
    return ValueError(f"perturb.coefficient must be {takes}, got {coefficient.name} with {given}")
