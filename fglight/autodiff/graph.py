"""The graph that autograd has of a block: which operations lie in it, and what each parameter goes into."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.autograd.graph import Node, get_gradient_edge

NO_ROW = 2**64 - 1
"""What an embedding without a padding row has for its number."""


@dataclass
class Graph:
    """The operations that a tensor is made of.

    Attributes:
        nodes: the operations; a parameter stands in the graph as what accumulates its gradient, and is none of them.
        entries: into how many operations each of these, or what accumulates a gradient, goes.
        uses: into how many operations each parameter goes.
        into: the last of the operations that each of these, or a parameter, goes into.
    """

    nodes: set[Node] = field(default_factory=set)
    entries: Counter[Node] = field(default_factory=Counter)
    uses: Counter[Tensor] = field(default_factory=Counter)
    into: dict[Node | Tensor, Node] = field(default_factory=dict)

    @classmethod
    def of(cls, output: Tensor) -> "Graph":
        """The whole graph of a tensor; empty for one without."""
        return cls.between(get_gradient_edge(output).node, None) if output.requires_grad else cls()

    @classmethod
    def between(cls, end: Node, start: Node | None) -> "Graph":
        """The part of a graph from ``end`` down to its parameters, and not beyond ``start``."""
        found, waiting = cls(), [end]
        if isinstance(leaf := getattr(end, "variable", None), Tensor):
            return cls(uses=Counter([leaf]))
        found.nodes.add(end)
        while waiting:
            operation = waiting.pop()
            for node, _ in operation.next_functions:
                if node is None or node is start:
                    continue
                found.entries[node] += 1
                found.into[node] = operation
                if isinstance(leaf := getattr(node, "variable", None), Tensor):
                    found.uses[leaf] += 1
                    found.into[leaf] = operation
                elif node not in found.nodes:
                    found.nodes.add(node)
                    waiting.append(node)
        return found

    def owned(self, end: Node, start: Node | None) -> set[Tensor]:
        """The parameters that go into this graph once, and by no other way than through ``end``.

        Args:
            end: the operation that made the output of a layer.
            start: the one that made its input, or what accumulates the input's gradient; None where it has none.
        """
        if end not in self.nodes:
            return set()
        part = Graph.between(end, start)
        if any(self.entries[node] > part.entries[node] for node in part.nodes if node is not end):
            return set()  # a gradient taken inside of a block has the layer's weight in it once more
        return {parameter for parameter, count in part.uses.items() if count == self.uses[parameter] == 1}

    def way(self, parameter: Tensor) -> Iterator[Node]:
        """The operations through which a parameter goes one by one, as long as there is a single way on."""
        node = self.into.get(parameter) if self.uses[parameter] == 1 else None
        while node is not None:
            yield node
            node = self.into.get(node) if self.entries[node] == 1 else None

    def padding(self) -> Iterator[tuple[Tensor, int]]:
        """Embeddings with a row that no gradient reaches: the parameter, and the row's number."""
        for node in self.nodes:
            row = getattr(node, "_saved_padding_idx", NO_ROW) if node.name().startswith("Embedding") else NO_ROW
            leaf = getattr(node.next_functions[0][0], "variable", None) if row != NO_ROW else None
            if leaf is not None:
                yield leaf, row

    def dtypes(self) -> set[torch.dtype]:
        """Those of the floating-point numbers that the operations give out."""
        given = {data.dtype for node in self.nodes for data in getattr(node, "_input_metadata", ())}
        return {dtype for dtype in given if dtype.is_floating_point}

    def has(self, name: str) -> bool:
        """Whether there is an operation whose name begins like this."""
        return any(node.name().startswith(name) for node in self.nodes)
