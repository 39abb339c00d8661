"""Whether the samples of a batch matter to each other, and which module makes them."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from fglight.models.segments import on_rows


def coupled_by(
    body: nn.Module, x: Tensor, again: Callable[[], AbstractContextManager], precision: float
) -> tuple[str, nn.Module] | None:
    """The first module in which the last sample matters to others: in its place, the first one is put once more.

    Args:
        body: the body.
        x: what it takes in, samples first.
        again: a context in which it may run once more, with the same random numbers.
        precision: how far rounding may take what is the same, of the largest number there is.

    Returns:
        Its name in the body, and itself; None where samples do not matter to each other.
    """
    rows = torch.arange(len(x), device=x.device)
    runs = []
    for samples in (rows, torch.where(rows == rows[-1], 0, rows)):
        with again(), on_rows(samples), _noted(body, len(x)) as uses:
            output = body(x.detach()[samples].requires_grad_(x.requires_grad))
        runs.append([*uses, ("", body, [], [output.detach()[:-1]])])
    for (name, module, taken, given), (_, _, taken_then, given_then) in zip(*runs):
        if _alike(taken, taken_then, precision) and not _alike(given, given_then, precision):
            return name, module
    return None


@contextmanager
def _noted(body: nn.Module, size: int) -> Iterator[list[tuple[str, nn.Module, list[Tensor], list[Tensor]]]]:
    """Note what modules take in and give out, but for the last sample; inner ones come before those that hold them."""
    names, notes = {module: name for name, module in body.named_modules()}, []

    def rows(given: Any) -> list[Tensor]:
        tensors = [x for x in pytree.tree_leaves(given) if isinstance(x, Tensor)]
        return [x.detach()[:-1].clone() for x in tensors if x.shape[:1] == (size,)]

    def note(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        notes.append((names[module], module, rows((args, kwargs)), rows(output)))

    hooks = [
        module.register_forward_hook(note, with_kwargs=True)
        for module in names
        if not isinstance(module, torch.jit.ScriptModule)  # which takes no hooks
    ]
    try:
        yield notes
    finally:
        for hook in hooks:
            hook.remove()


def _alike(some: Sequence[Tensor], others: Sequence[Tensor], precision: float) -> bool:
    def near(x: Tensor, y: Tensor) -> bool:
        if x.shape != y.shape or not x.is_floating_point():
            return torch.equal(x, y)
        scale = float(x.nan_to_num().abs().max()) if x.numel() else 0.0
        return torch.allclose(x, y, precision, precision * scale, equal_nan=True)

    return len(some) == len(others) and all(map(near, some, others))
