"""What steps compute for one network and one batch, held against the definition, engine by engine."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from fglight.autodiff.batch import in_several_processes
from fglight.autodiff.local_loss import Auxiliaries
from fglight.autodiff.passes import BlockPass
from fglight.autodiff.rng import Generators, generators_at, generators_kept
from fglight.errors import BlockError, one_line
from fglight.estimators.definition import Definition
from fglight.estimators.engines.base import Engine
from fglight.estimators.engines.finite import FiniteDifferences
from fglight.estimators.engines.forward import ForwardMode
from fglight.estimators.engines.reverse import ReverseMode
from fglight.estimators.guesses.base import Guess
from fglight.estimators.spaces.base import Perturbation
from fglight.estimators.targets import Target
from fglight.models.blocks import Block
from fglight.text import counted

TOLERANCE = 1e-6
"""How far an estimate may be off, of its tensor's largest entry; more where a network computes in single precision."""

Estimate = Callable[[Engine, Guess, Perturbation, Sequence[Block], Tensor, Tensor], object]
"""Takes a step with an engine, a guess and a space on blocks, images and labels, and leaves it in ``.grad``."""


@dataclass(frozen=True)
class Difference:
    """How far the estimate of one parameter is from the definition.

    Attributes:
        block: its block j.
        layer: the name in the block's body of the layer that has it, empty for the body itself; ``aux``: the auxiliary
            network, or the head.
        kind: the layer's class.
        parameter: its name there.
        error: the largest difference, of the definition's largest entry.
        tolerance: what may come of rounding and, with finite differences, of their step, of the same entry.
    """

    block: int
    layer: str
    kind: str
    parameter: str
    error: float
    tolerance: float

    def __str__(self) -> str:
        where = f"{_where(self.block, self.layer, self.kind)}: {self.parameter}"
        return f"{where} is off by {self.error:.1e} of its largest entry, and {self.tolerance:.1e} may be rounding"


@dataclass(frozen=True)
class EngineCheck:
    """What one engine computes; ``print`` shows it.

    Attributes:
        engine: its name.
        own: whether it is the estimator's.
        compared: all parameters with an estimate, in the order of the blocks.
        refused: why there is none, in the engine's own words; empty where there is.
    """

    engine: str
    own: bool
    compared: Sequence[Difference] = ()
    refused: str = ""

    @property
    def wrong(self) -> list[Difference]:
        """The parameters whose estimate is not the definition's."""
        return [one for one in self.compared if not one.error <= one.tolerance]

    def __str__(self) -> str:
        decided = [one for one in self.compared if one.tolerance < 1]
        tensors, undecided = counted(len(decided), "tensor"), len(self.compared) - len(decided)
        words = f"agrees in {tensors}, off by {max((one.error for one in decided), default=0):.1e} at most"
        words += f"; {undecided} more are nothing but rounding" if undecided else ""
        if self.wrong:
            words = "\n    ".join([f"differs in {len(self.wrong)} of {tensors}:", *map(str, self.wrong)])
        return f"{self.engine:15} {f'refused: {self.refused}' if self.refused else words}"


@dataclass(frozen=True)
class Verification:
    """What a step computes for one network and one batch; ``print`` shows it.

    Attributes:
        engines: what each engine computes.
        coupled: where samples matter to each other although coefficients are of a sample: the first module that has
            them do so in each block. What a sample's share is then, spaces and engines say.
    """

    engines: Sequence[EngineCheck]
    coupled: Sequence[str] = ()

    @property
    def agrees(self) -> bool:
        """Whether nothing differs, and the estimator's own engine has an estimate."""
        return not any(one.wrong or (one.own and one.refused) for one in self.engines)

    def __str__(self) -> str:
        return "\n".join([*map(str, self.engines), *(f"samples are coupled in {where}" for where in self.coupled)])


def verify(
    blocks: Sequence[Block],
    images: Tensor,
    labels: Tensor,
    target: Target,
    guess: Guess,
    space: Perturbation,
    engine: Engine,
    auxiliaries: Auxiliaries,
    estimate: Estimate,
) -> Verification:
    """Hold every engine's estimate against the definition; see ``GradientEstimator.verify``."""
    if in_several_processes():
        raise BlockError("verify must have the whole batch, and so one process: call it before there are others")
    network = _copied(nn.ModuleList(blocks)).double()
    images, labels = (x.detach().double() if x.is_floating_point() else x for x in (images, labels))
    kinds = {type(one): one for one in (ReverseMode(), ForwardMode(), FiniteDifferences(), engine)}
    found = []
    with generators_kept(images.device), torch.enable_grad(), torch.autocast(images.device.type, enabled=False):
        guess.set_up(network, images)
        state = Generators(images.device)
        parts = partial(_steady, guess, space, state, len(images))
        definition = Definition(_copied(network), images, labels, target, *parts(), auxiliaries)
        for kind, one in kinds.items():
            state.restore()
            own = _copied(network)
            try:
                estimate(deepcopy(one), *parts(), own, images, labels)
            except torch.OutOfMemoryError:
                raise
            except (ValueError, RuntimeError) as error:
                found.append(EngineCheck(one.name, one is engine, refused=one_line(error)))
                continue
            step = (one.step or definition.epsilon**0.5) if isinstance(one, FiniteDifferences) else None
            all_move = issubclass(kind, ForwardMode) and definition.space.by_sample
            expected = definition.estimates(all_move=all_move, step=step)
            expected |= {p: (gradient, torch.zeros_like(gradient)) for p, gradient in definition.exact.items()}
            found.append(EngineCheck(one.name, one is engine, [*_compared(definition, own, expected)]))
    coupled = [_where(j, name, type(by).__name__) for j, (name, by) in definition.coupled.items()]
    return Verification(found, coupled)


def _where(block: int, layer: str, kind: str) -> str:
    return f"block {block}, {layer or '(all of it)'}, {kind}"


def _copied(network: nn.Module) -> Any:
    """A copy; what modules have computed, as with a mask or a norm of weights, has a graph that none can have."""
    held = [x for part in network.modules() for x in vars(part).values() if isinstance(x, Tensor) and not x.is_leaf]
    return deepcopy(network, {id(x): x.detach().clone() for x in held})


def _compared(
    definition: Definition, blocks: Sequence[Block], expected: dict[nn.Parameter, tuple[Tensor, Tensor]]
) -> Iterator[Difference]:
    """How far ``.grad`` of the parameters of blocks is from what is expected of the definition's."""
    tolerance = max(TOLERANCE, definition.epsilon**0.5)
    for j, (block, own) in enumerate(zip(definition.blocks, blocks)):
        pairs = [(name, p, q.grad) for (name, p), q in zip(block.named_parameters(), own.parameters()) if p in expected]
        largest = max((float(expected[p][0].abs().max()) for _, p, _ in pairs), default=0.0)
        for name, p, gradient in pairs:
            truth, moved = expected[p]
            scale = max(float(truth.abs().max()), torch.finfo(truth.dtype).tiny)
            error = torch.nan if gradient is None else float((gradient - truth).abs().max())
            rounding = float(moved.max()) + definition.rounding * largest
            layer, _, parameter = name.rpartition(".")
            kind = type(block.get_submodule(layer)).__name__
            layer = "aux" if layer.startswith("aux") else layer.removeprefix("body").removeprefix(".")
            yield Difference(j, layer, kind, parameter, error / scale, tolerance + rounding / scale)


def _steady(guess: Guess, space: Perturbation, state: Generators, samples: int) -> tuple[Guess, Perturbation]:
    """Copies that draw the same whoever asks, in whatever order and for however many samples at a time.

    Args:
        guess: draws directions.
        space: has the coefficient, which may draw.
        state: what they draw from.
        samples: how many there are.
    """
    guess, space = deepcopy((guess, space))
    directions, in_space, begun = guess.directions, guess.in_space, Counter[int]()

    def always(ask: Callable, number: int, *given: Any, **named: Any) -> Any:
        with generators_at(state):
            torch.manual_seed(torch.initial_seed() + number)
            found = ask(*given, **named)
            return found if isinstance(found, Tensor) else [*found]  # as it is drawn, here

    def part_of_all(
        block_pass: BlockPass, pulled: Sequence[Tensor] | None, likes: Sequence[Tensor], *, by_sample: bool
    ) -> list[Tensor]:
        ask = partial(always, in_space, block_pass.index, block_pass, by_sample=by_sample)
        if not by_sample or len(likes[0]) == samples:
            return ask(pulled, likes)
        (like,), start = likes, begun[likes[0].data_ptr()]  # of a layer that takes some samples at a time
        begun[like.data_ptr()] = (start + len(like)) % samples
        part, whole = slice(start, start + len(like)), None
        if pulled:
            whole = [pulled[0].new_zeros(len(pulled[0]), samples, *like.shape[1:])]
            whole[0][:, part] = pulled[0]
        return [ask(whole, [like[:1].expand(samples, *like.shape[1:])])[0][:, part]]

    changed: Any = guess
    changed.directions = lambda block_pass: always(directions, block_pass.index, block_pass)
    if not guess.is_gradient:
        changed.in_space = part_of_all
    coefficient: Any = space.coefficient
    if coefficient is not None:
        coefficient.load_state_dict({})
        if coefficient.random:
            coefficient.factors = partial(always, coefficient.factors, 0)
    return guess, guess.space(space)
