"""The state of torch's default generators, and what is drawn from it more than once."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager

import torch
from torch import Tensor


def generator_state(device: torch.device) -> Tensor:
    """The state of a device's default generator."""
    return torch.get_rng_state() if device.type == "cpu" else torch.get_device_module(device).get_rng_state(device)


def generators_kept(device: torch.device, *, enabled: bool = True) -> AbstractContextManager[None]:
    """A context after which random numbers on the CPU and a device are drawn as if nothing had been drawn inside."""
    devices = [] if device.type == "cpu" else [device]
    return torch.random.fork_rng(devices, enabled=enabled, device_type=device.type)


class Redrawn(Sequence[Tensor]):
    """Random tensors that are drawn again each time, always the same.

    Args:
        draw: draws them.
        device: where.
    """

    def __init__(self, draw: Callable[[], list[Tensor]], device: torch.device) -> None:
        self.draw = draw
        self.device = device
        self.states = {kind: generator_state(kind) for kind in {torch.device("cpu"), device}}
        self.length = len(draw())  # the generator moves on as ever

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Tensor:  # type: ignore[override]
        return list(self)[index]

    def __iter__(self) -> Iterator[Tensor]:
        with generators_kept(self.device):
            for device, state in self.states.items():
                if device.type == "cpu":
                    torch.set_rng_state(state)
                else:
                    torch.get_device_module(device).set_rng_state(state, device)
            return iter(self.draw())
