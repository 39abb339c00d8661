"""Any module, cut where some of its submodules begin, without being taken apart.

A segment runs the module's own code: what comes before it is skipped, and what comes after it is not reached. So masks,
positions and whatever else the code makes of the module's inputs are there in every segment, and its layers may give
and take tuples or other structures, of which one tensor is handed on.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from fglight.errors import BlockError

Inputs = Callable[[Tensor], Mapping[str, Any]]
"""The keyword arguments of a module, of the tensor that block 0 takes."""


_ROWS: ContextVar[Tensor | None] = ContextVar("rows", default=None)


@contextmanager
def on_rows(rows: Tensor) -> Iterator[None]:
    """A context in which segments run on these samples of the batch that segment 0 took."""
    token = _ROWS.set(rows)
    try:
        yield
    finally:
        _ROWS.reset(token)


class _Reached(Exception):
    """The next segment begins; the tensor is what it would take."""

    def __init__(self, tensor: Tensor) -> None:
        super().__init__()
        self.tensor = tensor


class _Proxy(nn.Module):
    """Stands for a submodule while a segment runs: calls a function of it and its arguments."""

    def __init__(self, module: nn.Module, call: Callable[..., Any]) -> None:
        super().__init__()
        self.__dict__["module"] = module  # not a submodule
        self.call = call

    def __getattr__(self, name: str) -> Any:
        """What the submodule has."""
        return getattr(self.__dict__["module"], name)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """See above."""
        return self.call(self.__dict__["module"], args, kwargs)


class Whole:
    """A module that runs in segments.

    Args:
        module: the module; it stays as it is.
        starts: names of the submodules with which segments 1, 2, ... begin.
        example: what segment 0 takes.
        inputs: makes the module's arguments of that; None: it is the only one.

    Attributes:
        calls: the submodules that are called, as paths of those that are being called then, in the order of their ends.
        called: for each segment the outermost submodules that it calls, by their names.
        skipped: those of them that later segments skip.
        fills: what stands in the outputs of skipped submodules, by their names; 0 where it is not said.

    Raises:
        ValueError: a name is none of a submodule that is called once, in this order.
    """

    def __init__(self, module: nn.Module, starts: Sequence[str], example: Tensor, inputs: Inputs | None) -> None:
        self.module = module
        self.starts = list(starts)
        self.inputs = inputs
        self.names = {submodule: name for name, submodule in module.named_modules()}
        self.taken: Tensor | None = None  # by segment 0, in this pass
        self.notes: dict[str, Any] = {}  # what submodules gave in this pass, in shapes
        self.fills: Mapping[str, float] = {}
        self.calls = self._calls(example)
        self.called = self._shared_out(self.calls)
        self.skipped = self.called
        self.ancestors = [module.get_submodule(name) for name in self._above()]

    def run(self, index: int, x: Tensor) -> Tensor:
        """Run a segment.

        Args:
            index: of the segment.
            x: what it takes: the module's input, or what the segment before gave.

        Returns:
            What the next segment takes, or the outputs of the module.

        Raises:
            BlockError: no pass has begun with segment 0, or one of other samples.
        """
        rows = _ROWS.get()
        if index == 0 and rows is None:
            self.taken, self.notes = x.detach(), {}
        if self.taken is None or len(self.taken if rows is None else rows) != len(x):
            raise BlockError(f"block {index} of a cut module must run behind block 0, on as many samples")
        taken = x if index == 0 else self.taken if rows is None else self.taken[rows]
        calls = {name: self._skip for names in self.skipped[:index] for name in names}
        calls |= dict.fromkeys(self.called[index], self._note)
        if index > 0:
            calls[self.starts[index - 1]] = partial(self._begin, x)
        if index < len(self.starts):
            calls[self.starts[index]] = _stop
        proxies = []
        for name, call in calls.items():
            owner, _, last = name.rpartition(".")
            proxies.append(
                (self.module.get_submodule(owner)._modules, last, _Proxy(self.module.get_submodule(name), call))
            )
        with _swapped(proxies):
            try:
                found = self._call(taken)
            except _Reached as reached:
                return reached.tensor
        return _outputs(found)

    def _call(self, taken: Tensor) -> Any:
        return self.module(taken) if self.inputs is None else self.module(**self.inputs(taken))

    def _skip(self, module: nn.Module, args: Any, kwargs: Any) -> Any:
        """Something like what the submodule gave in this pass, with what it handed on as it was."""
        rows, size, name = _ROWS.get(), 0 if self.taken is None else len(self.taken), self.names[module]
        fill, taken = self.fills.get(name, 0.0), pytree.tree_leaves((args, kwargs))

        def filled(shape: _Shape) -> Tensor:
            samples = [size] if rows is None else [len(rows)]
            return shape.filled(fill, samples if shape.shape[:1] == (size,) else shape.shape[:1])

        found = pytree.tree_map_only(_Shape, filled, self.notes[name])
        return pytree.tree_map_only(_HandedOn, lambda leaf: taken[leaf.place], found)

    def _note(self, module: nn.Module, args: Any, kwargs: Any) -> Any:
        given = module(*args, **kwargs)
        if _ROWS.get() is None:
            taken = pytree.tree_leaves((args, kwargs))
            self.notes[self.names[module]] = pytree.tree_map_only(Tensor, partial(_noted, taken), given)
        return given

    def _begin(self, x: Tensor, module: nn.Module, args: Any, kwargs: Any) -> Any:
        """Call the submodule with x in the place of the tensor that carries on."""
        leaves, structure = pytree.tree_flatten((args, kwargs))
        leaves[_place(leaves)] = x
        args, kwargs = pytree.tree_unflatten(leaves, structure)
        return self._note(module, args, kwargs)

    def _calls(self, example: Tensor) -> list[tuple[str, ...]]:
        """See ``calls``."""
        running, ended = list[str](), list[tuple[str, ...]]()

        def begins(module: nn.Module, args: Any) -> None:
            running.append(self.names.get(module, ""))

        def ends(module: nn.Module, args: Any, given: Any) -> None:
            ended.append(tuple(running))
            running.pop()

        handles = [m.register_forward_pre_hook(begins) for m in self.names]
        handles += [m.register_forward_hook(ends) for m in self.names]
        training = {module: module.training for module in self.names}
        try:
            self.module.eval()
            with torch.no_grad():
                self._call(example)
        finally:
            for handle in handles:
                handle.remove()
            for module, mode in training.items():
                module.training = mode
        return ended

    def _above(self) -> list[str]:
        """The submodules that are being called where a segment begins: they have no segment of their own."""
        parts = [name.split(".") for name in self.starts]
        return list(dict.fromkeys(["", *(".".join(part[:end]) for part in parts for end in range(1, len(part)))]))

    def holding(self, names: Sequence[str]) -> list[str]:
        """Those submodules that hold parameters."""
        return [name for name in names if any(True for _ in self.module.get_submodule(name).parameters())]

    def _shared_out(self, calls: Sequence[tuple[str, ...]]) -> list[list[str]]:
        """The outermost submodules that are called in each segment."""
        above, found = set(self._above()), list[str]()
        for path in calls:
            inner = [name for name in path if name not in above]
            if inner and path[-1] == inner[0]:
                found.append(inner[0])
        known = [name for name, _ in self.module.named_modules() if name]
        for name in self.starts:
            if name not in known:
                raise ValueError(
                    f"blocks must begin with submodules of the network, such as {_some(found)}, got {name}"
                )
            if found.count(name) != 1:
                raise ValueError(
                    f"blocks must begin with submodules that are called once, got {name}: use {_some(found)}"
                )
        if [name for name in found if name in self.starts] != self.starts or found[:1] == self.starts[:1]:
            raise ValueError(f"blocks must begin with submodules in the order of {_some(found)}, got {self.starts}")
        segments: list[list[str]] = [[]]
        for name in found:
            if name in self.starts:
                segments.append([])
            segments[-1].append(name)
        held = [self.holding(names) for names in segments]
        for index, names in enumerate(held):
            for name in names:
                others = [k for k, other in enumerate(held) if name in other and k != index]
                if others:
                    raise ValueError(
                        f"{name} is called in blocks {index} and {others[0]}: cut so that one has all calls"
                    )
        return segments


class Segment(nn.Module):
    """A part of a module as a block's body.

    Args:
        whole: the module.
        index: of the segment.
        own: the parameters of ``whole.ancestors`` that it depends on, by their names in the module.
    """

    def __init__(self, whole: Whole, index: int, own: Mapping[str, nn.Parameter]) -> None:
        super().__init__()
        self.held = (whole,)  # no submodule of this one, for it has all segments' parameters
        self.index = index
        self.own = {name.replace(".", "/"): name for name in own}
        for name in dict.fromkeys(whole.called[index]):
            self.add_module(name.replace(".", "/"), whole.module.get_submodule(name))
        for name, parameter in own.items():
            self.register_parameter(name.replace(".", "/"), parameter)
        for module in whole.ancestors:  # whose buffers move with each segment
            for last, buffer in module.named_buffers(recurse=False):
                full = f"{whole.names[module]}.{last}".lstrip(".")
                self.own[full.replace(".", "/")] = full
                self.register_buffer(full.replace(".", "/"), buffer, last not in module._non_persistent_buffers_set)

    @property
    def whole(self) -> Whole:
        """The module."""
        return self.held[0]

    def train(self, mode: bool = True) -> "Segment":
        """As ``nn.Module.train``, of what is called around the segment, too."""
        for module in self.whole.ancestors:
            module.training = mode
        return super().train(mode)

    def forward(self, x: Tensor) -> Tensor:
        """See ``Whole.run``."""
        tensors = []
        for name, full in self.own.items():  # which may be another tensor for this call
            owner, _, last = full.rpartition(".")
            module = self.whole.module.get_submodule(owner)
            held: dict[str, Any] = module._parameters if last in module._parameters else module._buffers
            tensors.append((held, last, getattr(self, name)))
        with _swapped(tensors):
            return self.whole.run(self.index, x)


def segments(module: nn.Module, starts: Sequence[str], example: Tensor, inputs: Inputs | None = None) -> list[Segment]:
    """Cut a module into segments that, one after the other, are the module.

    Args:
        module: any module.
        starts: names of the submodules with which segments 1, 2, ... begin.
        example: what the module takes, samples first, or what ``inputs`` makes its arguments of.
        inputs: see ``Inputs``.

    Raises:
        ValueError: naming what cannot be cut, or what crosses a cut besides the one tensor.
    """
    parts, possible = _cut(module, starts, example, inputs)
    if not possible:
        crossing = _some(_crossing(parts, example)) or "its own code"
        raise ValueError(
            f"one tensor must cross the cuts at {_some(starts)}, and what {crossing} gives does, too: cut where it is "
            "no longer used"
        )
    return [Segment(parts[0].whole, index, own) for index, own in enumerate(_parameters_above(parts, example))]


def _cut(
    module: nn.Module, starts: Sequence[str], example: Tensor, inputs: Inputs | None
) -> tuple[list[Segment], bool]:
    """Segments, and whether they are the module."""
    whole = Whole(module, starts, example, inputs)
    parts = [Segment(whole, index, {}) for index in range(len(starts) + 1)]
    if _are_the_module(parts, example):
        return parts, True
    # What holds no parameters may make constants of the inputs, such as the angles of rotary positions.
    whole.skipped = [whole.holding(names) for names in whole.called]
    return parts, _are_the_module(parts, example)


def _parameters_above(parts: Sequence[Segment], example: Tensor) -> list[dict[str, nn.Parameter]]:
    """For each segment the parameters that none holds and its output depends on, by their names in the module."""
    named = dict(parts[0].whole.module.named_parameters())
    held = {p for part in parts for p in part.parameters()}
    names = [name for name, p in named.items() if p not in held and p.requires_grad]
    owned: list[dict[str, nn.Parameter]] = [{} for _ in parts]
    if not names:
        return owned
    copies, x = deepcopy(nn.ModuleList(parts)).eval(), example
    copied = dict(cast(Segment, copies[0]).whole.module.named_parameters())
    with torch.enable_grad():
        for own, part in zip(owned, copies):
            given = part(x)
            inputs = [copied[name] for name in names]
            gradients = torch.autograd.grad(given.sum(), inputs, allow_unused=True) if given.requires_grad else []
            own |= {name: named[name] for name, gradient in zip(names, gradients) if gradient is not None}
            x = given.detach()
    return owned


def _are_the_module(parts: Sequence[Segment], example: Tensor) -> bool:
    """Whether segments give what the module gives, whatever stands in the outputs of skipped submodules."""
    runs = _runs(parts, example, [{}, dict.fromkeys(_skipped(parts), torch.nan)])
    expected = next(runs)
    return all(torch.allclose(x, expected, rtol=1e-3, atol=1e-5) for x in runs)


def _crossing(parts: Sequence[Segment], example: Tensor) -> list[str]:
    """The submodules of which more than the tensor that is handed on is used behind the next cut."""
    names = _skipped(parts)
    _, usual, *runs = _runs(parts, example, [{}, *({name: torch.nan} for name in names)])
    return [name for name, x in zip(names, runs) if not torch.allclose(usual, x)]


def _skipped(parts: Sequence[Segment]) -> list[str]:
    return [name for names in parts[0].whole.skipped for name in names]


@torch.no_grad()
def _runs(parts: Sequence[Segment], example: Tensor, fillings: Iterable[Mapping[str, float]]) -> Iterator[Tensor]:
    """What the module gives, and then what segments give with other things in the outputs of skipped submodules."""
    copies = deepcopy(nn.ModuleList(parts)).eval()
    whole = cast(Segment, copies[0]).whole
    yield _outputs(whole._call(example))
    for fills in fillings:
        whole.fills, x = fills, example
        for part in copies:
            x = part(x)
        yield x


def even_cuts(module: nn.Module, blocks: int, example: Tensor, inputs: Inputs | None = None) -> list[str]:
    """Where to cut a module into segments of about as many layers: the names of the submodules that begin them.

    Submodules with parameters that are called once are layers. Sequences are looked into, and what holds at least half
    of the parameters of all; embeddings, whose sizes are those of a vocabulary, do not count.

    Args:
        module: any module.
        blocks: how many segments.
        example: as for ``segments``.
        inputs: likewise.

    Raises:
        ValueError: there are not so many places where one tensor hands on.
    """
    counted = {part for part in module.modules() if not isinstance(part, nn.Embedding)}
    sizes = {
        name: sum(p.numel() for inner in counted & {*part.modules()} for p in inner.parameters(recurse=False))
        for name, part in module.named_modules()
    }
    opened = {
        name
        for name, part in module.named_modules()
        if not name or (2 * sizes[name] > sizes[""] and [*part.children()]) or type(part) is nn.Sequential
    }
    calls = Whole(module, [], example, inputs).calls
    found = [path[-1] for path in calls if path[-1] not in opened and not {*path[:-1]} - opened and sizes[path[-1]]]
    layers = [name for name in found if found.count(name) == 1]
    starts: list[str] = []
    first = 1
    for j in range(1, blocks):
        wanted = max(first, j * len(layers) // blocks)
        near = sorted(range(first, len(layers)), key=lambda place: abs(place - wanted))
        place = next((place for place in near if _can_begin(module, layers[place], example, inputs)), None)
        if place is None:
            raise ValueError(f"blocks must be at most {j}, as one tensor can be handed on so often, got {blocks}")
        starts.append(layers[place])
        first = place + 1
    return starts


def _can_begin(module: nn.Module, name: str, example: Tensor, inputs: Inputs | None) -> bool:
    try:
        return _cut(module, [name], example, inputs)[1]
    except ValueError:
        return False


@contextmanager
def _swapped(swaps: Sequence[tuple[dict[str, Any], str, Any]]) -> Iterator[None]:
    """Have other values at some keys of dictionaries."""
    kept = [held[key] for held, key, _ in swaps]
    try:
        for held, key, value in swaps:
            held[key] = value
        yield
    finally:
        for (held, key, _), value in zip(swaps, kept):
            held[key] = value


class _Shape:
    """What is known of a tensor whose numbers do not matter."""

    def __init__(self, tensor: Tensor) -> None:
        self.shape, self.dtype, self.device = tensor.shape, tensor.dtype, tensor.device

    def filled(self, value: float, samples: Sequence[int]) -> Tensor:
        """A tensor like it, of other samples."""
        own = value if self.dtype.is_floating_point else 0
        return torch.full((*samples, *self.shape[1:]), own, dtype=self.dtype, device=self.device)


@dataclass(frozen=True)
class _HandedOn:
    """Stands for a tensor that a submodule gives as it has taken it.

    Attributes:
        place: its place in what the submodule takes.
    """

    place: int


def _noted(taken: Sequence[Any], given: Tensor) -> "_Shape | _HandedOn":
    place = next((place for place, leaf in enumerate(taken) if leaf is given), None)
    return _Shape(given) if place is None else _HandedOn(place)


def _stop(module: nn.Module, args: Any, kwargs: Any) -> Any:
    leaves = pytree.tree_leaves((args, kwargs))
    raise _Reached(leaves[_place(leaves)])


def _place(leaves: Sequence[Any]) -> int:
    """Which of several leaves carries on: the first tensor of floating point."""
    places = (i for i, leaf in enumerate(leaves) if isinstance(leaf, Tensor) and leaf.is_floating_point())
    place = next(places, None)
    if place is None:
        raise ValueError("a block must begin with a submodule that takes a tensor of floating point, and end with one")
    return place


def _outputs(given: Any) -> Tensor:
    leaves = pytree.tree_leaves(getattr(given, "logits", given))
    return leaves[_place(leaves)]


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:12]) + (" ..." if len(names) > 12 else "")
