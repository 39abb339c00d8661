"""A network as the chain of its layers, between any two of which it can be cut."""

from collections.abc import Sequence

from torch import nn
from torch.fx import Graph, GraphModule, Node, Tracer


class _Layers(Tracer):
    """Tells modules that are layers from those that only hold some."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.size = _size(network)

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Plain sequences are no layers, nor are modules of which a network is made for the most part."""
        if type(m) is nn.Sequential:
            return False
        return m.__module__.startswith("torch.nn.") or 2 * _size(m) <= self.size


def chain(network: nn.Module) -> dict[str, nn.Module]:
    """Take a network apart into layers that, one after the other, are the network.

    They follow from its computation in evaluation mode: one ends before a module where a single tensor is handed on.
    What is between modules, such as flattening, belongs to the layer before, and what a skip passes by is one layer.

    Args:
        network: a module of one tensor; it is left in training mode.

    Returns:
        The layers by their names, modules of the network's own or of several of them.

    Raises:
        Exception: whatever ``torch.fx`` raises where the computation cannot be followed.
    """
    graph = _Layers(network.eval()).trace(network)
    network.train()
    images, *nodes, end = graph.nodes
    place = {node: index for index, node in enumerate(graph.nodes)}
    layers: dict[str, nn.Module] = {}
    taken, layer = images, list[Node]()
    for node in [*nodes, end]:
        handed_on = [
            other
            for other in place
            if place[other] < place[node] <= max(map(place.__getitem__, other.users), default=0)
        ]
        ends = node is end or node.op == "call_module"
        if ends and len(handed_on) == 1 and any(other.op == "call_module" for other in layer):
            first = next(other for other in layer if other.op == "call_module")
            again = str(first.target) in layers  # called once more, as activations may be
            layers[first.name if again else str(first.target)] = _joined(network, layer, taken, handed_on[0])
            taken, layer = handed_on[0], []
        layer.append(node)
    return layers


def _joined(network: nn.Module, nodes: Sequence[Node], taken: Node, given: Node) -> nn.Module:
    """The module that makes one tensor of another as some of a graph's nodes do."""
    if len(nodes) == 1 and nodes[0].args == (taken,) and not nodes[0].kwargs:
        return network.get_submodule(str(nodes[0].target))
    graph = Graph()
    copies = {taken: graph.placeholder("x")}
    for node in nodes:
        copies[node] = graph.node_copy(node, copies.__getitem__)
    graph.output(copies[given])
    return GraphModule(network, graph, "Layers")


def _size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
