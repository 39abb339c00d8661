"""The state of the default generators of torch, Python and numpy, and what is drawn from them more than once."""

import random
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from copy import copy
from itertools import islice
from typing import Any

import numpy as np
import torch


class TorchGenerators:
    """The state of torch's default generators, which directions are drawn from.

    Args:
        device: whose generator it is, beside the CPU's.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = None if device.type == "cpu" else device
        self.cpu = torch.get_rng_state()
        self.other: Any = None if self.device is None else torch.get_device_module(device).get_rng_state(device)

    def restore(self) -> None:
        """Go back to this state."""
        torch.set_rng_state(self.cpu)
        if self.device is not None:
            torch.get_device_module(self.device).set_rng_state(self.other, self.device)


class Generators(TorchGenerators):
    """The state of every default generator that a module may draw from; see ``TorchGenerators``."""

    def __init__(self, device: torch.device) -> None:
        super().__init__(device)
        self.python = random.getstate()
        self.numpy: Any = np.random.get_state()  # noqa: NPY002 (modules of others draw from it)

    def restore(self) -> None:
        """Go back to this state."""
        super().restore()
        random.setstate(self.python)
        np.random.set_state(self.numpy)  # noqa: NPY002

    def have_moved(self) -> bool:
        """Whether anything has been drawn since."""
        now = Generators(self.device or torch.device("cpu"))
        return not (
            torch.equal(now.cpu, self.cpu)
            and (self.other is None or torch.equal(now.other, self.other))
            and now.python == self.python
            and now.numpy[2:] == self.numpy[2:]
            and np.array_equal(now.numpy[1], self.numpy[1])
        )


@contextmanager
def generators_kept(device: torch.device) -> Iterator[None]:
    """A context after which random numbers are drawn as if nothing had been drawn inside."""
    before = Generators(device)
    try:
        yield
    finally:
        before.restore()


@contextmanager
def generators_at(state: Generators) -> Iterator[None]:
    """A context in which random numbers are drawn from a state on, and after which they are as they were."""
    with generators_kept(state.device or torch.device("cpu")):
        state.restore()
        yield


class Redrawn(Iterable[Any]):
    """Random things that are drawn again each time, always the same, one after the other.

    Args:
        draw: draws them, from torch's generators.
        device: where.
    """

    def __init__(self, draw: Callable[[], Iterable[Any]], device: torch.device) -> None:
        self.draws = [(draw, TorchGenerators(device))]
        for _ in draw():  # the generator moves on as ever
            pass
        self.device = device

    def __add__(self, other: "Redrawn") -> "Redrawn":
        """These, and others."""
        both = copy(self)
        both.draws = self.draws + other.draws
        return both

    def __iter__(self) -> Iterator[Any]:
        for draw, state in self.draws:
            drawn, found = iter(draw()), True
            while found:
                outside = TorchGenerators(self.device)
                state.restore()
                things = [*islice(drawn, 1)]
                state = TorchGenerators(self.device)
                outside.restore()
                found = bool(things)
                yield from things
