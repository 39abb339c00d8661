"""One forward pass, kept block by block, and the vector-Jacobian products that everything else is made of."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import cached_property, partial, reduce
from itertools import compress
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge
from torch.utils.checkpoint import checkpoint

from fglight.autodiff.batch import Batch
from fglight.autodiff.buffers import Buffers
from fglight.autodiff.diagnosis import check_unchanged, checked_graph
from fglight.autodiff.graph import Graph
from fglight.autodiff.jvp import jvp_by_sample, jvp_from_layer, jvps
from fglight.autodiff.layers.calls import LayerCall, SamplesFirst, samples_first, shape_of, version_of
from fglight.autodiff.local_loss import Auxiliaries, LocalLoss
from fglight.autodiff.parameters import dense, without_row
from fglight.models.blocks import Block, trainable


@dataclass
class NetworkPass:
    """What all blocks of a network have in common in one step.

    Attributes:
        blocks: blocks 0..J-1.
        batch: the images and labels.
        buffers: of the blocks, as they were before any of them ran.
        auxiliaries: what is wanted of them.
        recording: gives a context in which a body runs once, whose value is the uses of its layers.
        losses: for each of blocks 0..J-2 the block whose loss it follows, see ``Target``.
        adds_local: whether local losses of blocks on the way are added, see ``Target``.
        trains_blocks: whether blocks 0..J-2 are trained.
        needs: of the guess, see there.
        checkpointing: whether blocks 0..J-2 keep their inputs alone and run once more for a product.
        padding: rows of embeddings that no gradient reaches, by their parameters; None: a block's graph tells.
        gradients: those that the step has found so far.
        passes: all blocks, once they have run.
        error: the gradient of the network's loss with respect to the logits, ``(batch, classes)``, once the last block
            has its gradients, where it is wanted and the loss comes from them.
    """

    blocks: Sequence[Block]
    batch: Batch
    buffers: Buffers
    auxiliaries: Auxiliaries
    recording: Callable[[nn.Module], AbstractContextManager[list[LayerCall]]]
    losses: Sequence[int] = ()
    adds_local: bool = False
    trains_blocks: bool = True
    needs: frozenset[str] = frozenset()
    checkpointing: bool = False
    padding: Mapping[Tensor, int] | None = None
    gradients: dict[nn.Parameter, Tensor] = field(default_factory=dict)
    passes: list["BlockPass"] = field(default_factory=list)
    error: Tensor | None = None

    def enter(self, index: int, x: Tensor | None, auxiliaries: Auxiliaries | None = None) -> "BlockPass":
        """Block ``index``, about to take in ``x``; nothing runs yet.

        Args:
            index: j.
            x: h_{j-1}, which has no graph; None where it is not known yet.
            auxiliaries: what is wanted of the block's, where it is not the same for all.
        """
        block = self.blocks[index]
        trained = trainable(block.body) if self.trains_blocks or block is self.blocks[-1] else []
        nothing: Any = None
        return BlockPass(
            index, block, self, nothing if x is None else x, nothing, trained, auxiliaries or self.auxiliaries
        )

    def losses_through(self, index: int) -> set[int]:
        """The blocks whose losses are followed through block ``index``, by trained blocks before it."""
        before = zip(self.passes[:index], self.losses)
        return {loss for block_pass, loss in before if block_pass.parameters and loss >= index}

    @torch.enable_grad()
    def local_loss(self, block: Block, output: Tensor, auxiliaries: Auxiliaries) -> LocalLoss:
        """Evaluate a block's local loss on its detached output, and what its gradients are wanted for.

        Args:
            block: block j < J-1.
            output: h_j, ``(batch, ...)``.
            auxiliaries: what is wanted.
        """
        outputs = [output.detach().requires_grad_(auxiliaries.differentiated) for _ in block.auxiliaries]
        with self.buffers.first(block.aux, output.device):  # on copies, for others still need what it may change
            loss, logits = self.batch.loss(block, [x.clone() for x in outputs])
        parameters = trainable(block.aux) if auxiliaries.trained else []
        gradients = self.take(block.aux, loss, outputs * auxiliaries.differentiated, parameters)
        return LocalLoss(loss.detach(), logits.detach(), gradients or None)

    def take(
        self,
        part: nn.Module,
        loss: Tensor,
        inputs: Sequence[Tensor],
        parameters: Sequence[nn.Parameter],
        *,
        keep: bool = False,
    ) -> list[Tensor]:
        """Take the gradients of a loss; those of parameters are the step's.

        Args:
            part: what ran for it.
            loss: on its graph.
            inputs: of the part.
            parameters: of the part.
            keep: whether the graph is needed again.

        Returns:
            The gradients with respect to the inputs.
        """
        both = [*inputs, *parameters]
        if not both:
            return []
        with self.buffers.again(part):
            found = torch.autograd.grad(loss, both, retain_graph=keep, allow_unused=True, materialize_grads=True)
        gradients = [*map(dense, found)]
        self.gradients.update(zip(parameters, gradients[len(inputs) :]))
        return gradients[: len(inputs)]


@dataclass
class BlockPass:
    """Block j in one forward pass: its input, its output and the graph between them, cut off from all other blocks.

    Attributes:
        index: j.
        block: the block.
        network: what it has in common with the others.
        input: x_j = h_{j-1} without graph (the images for block 0); None once the block is released.
        output: h_j = f_j(x_j), with the graph of this block alone; None before it has run, and once it is released.
        graph: that of the output, for as long.
        parameters: the trained parameters theta_j of the body, in the order of ``body.parameters()``.
        auxiliaries: what is wanted of the block's auxiliary network.
        calls: the uses of the body's layers, where the perturbation records them.
        input_gradient: of the network's loss with respect to x_j; only for the last block, where it was asked for.
    """

    index: int
    block: Block
    network: NetworkPass
    input: Tensor  # None once the block is released, as are the next ones
    output: Tensor  # and before it has run
    parameters: list[nn.Parameter]
    auxiliaries: Auxiliaries
    graph: Graph = None  # type: ignore[assignment]
    calls: list[LayerCall] = field(default_factory=list)
    input_gradient: Tensor = None  # type: ignore[assignment]

    def __post_init__(self) -> None:
        self.version = version_of(self.input)

    @property
    def has_run(self) -> bool:
        """Whether there is an output."""
        return bool(self.output is not None)

    @property
    def next(self) -> "BlockPass":
        """Block j+1, once it has run."""
        return self.network.passes[self.index + 1]

    def let_go(self) -> None:
        """Let go of the graph, and keep the output."""
        self.output, self.graph = self.output.detach(), Graph()

    def run(self) -> None:
        """Run the body, on a graph of its own where gradients are on."""
        body: Callable[[Tensor], Tensor] = self.block.body
        if self.network.checkpointing and self.block is not self.network.blocks[-1]:
            body = partial(checkpoint, self.block.body, use_reentrant=False)
        first = self.network.buffers.first(self.block.body, self.network.batch.images.device)
        with first, self.network.recording(self.block.body) as self.calls:
            self.output = body(self.input)
        self.graph = checked_graph(self.output, self.input, self.block.body, self.parameters)
        for call in self.calls:
            call.again = self.again

    def finish(self) -> None:
        """The last block: take the exact gradients of the network's loss, and its input's where that takes one."""
        with self.network.buffers.first(self.block.aux, self.output.device):
            loss, logits = self.network.batch.loss(self.block, self.output)
        parameters = self.parameters + trainable(self.block.aux)
        if "error" in self.network.needs and loss.requires_grad:
            (self.network.error,) = torch.autograd.grad(loss, [logits], retain_graph=True, allow_unused=True)
        inputs = [self.input] * self.input.requires_grad
        keep = self.network.needs >= {"error", "next"}
        for gradient in self.network.take(self.block, loss, inputs, parameters, keep=keep):
            self.input_gradient = gradient
        self.local = LocalLoss(loss.detach(), logits.detach(), None)
        self.calls.clear()

    @cached_property
    def padding(self) -> Mapping[Tensor, int]:
        """Rows of embeddings that no gradient reaches, by their parameters."""
        return dict(self.graph.padding()) if self.network.padding is None else self.network.padding

    def without_padding(self, parameter: nn.Parameter, directions: Tensor, *, fresh: bool) -> Tensor:
        """Directions that were drawn for a parameter, ``(..., *shape)``, with zeros where no gradient is.

        Args:
            parameter: of the block.
            directions: of it.
            fresh: whether nothing else holds them.
        """
        row = self.padding.get(parameter)
        if row is None:
            return directions
        return without_row(directions if fresh else directions.clone(), parameter.dim(), row)

    @cached_property
    def samples_first(self) -> SamplesFirst:
        """Where samples stand in front."""
        return samples_first(self.block.body, self.input, self.calls, self.graph, self.again)

    @cached_property
    def calls_by_sample(self) -> set[LayerCall]:
        """The uses of layers that have samples in front, in what they take in and give out."""
        return set(compress(self.calls, self.samples_first.calls))

    @cached_property
    def by_sample(self) -> dict[nn.Parameter, tuple[LayerCall, str]]:
        """The parameters for which a use of a layer stands, or an operation as if it were one, sample by sample.

        A use with closed forms goes first. Next is the first operation that gives out samples, where a parameter goes
        from one operation into the next up to there: the sum with a table of positions, say. Then any other use.
        """
        found = {}
        for name, parameter in zip(self.names, self.parameters):
            call, own_name = self.owners.get(parameter, (None, ""))
            if call in self.calls_by_sample and call.kind(own_name, parameter) is not None:
                found[parameter] = call, own_name
            elif node := self.samples_first.operation(self.graph, parameter):
                edge, shape = GradientEdge(node, 0), shape_of(node)
                found[parameter] = LayerCall(self.block.body, self.input, edge, shape, again=self.again), name
            elif call in self.calls_by_sample:
                found[parameter] = call, own_name
        return found

    @cached_property
    def owners(self) -> dict[nn.Parameter, tuple[LayerCall, str]]:
        """The parameters for which a single use of a layer stands: that use, and the parameter's name there.

        A parameter that is used once more, by the same layer, by another one or by a function, has none, nor has one
        of a layer whose input was modified in place after it was used.
        """
        found = {}
        for call in self.calls:
            owned = self.graph.owned(call.output.node, call.source) if version_of(call.input) == call.version else ()
            for name, parameter in call.layer._parameters.items():
                if parameter in owned:
                    found[parameter] = call, name
        return found

    @property
    def names(self) -> list[str]:
        """Those of ``parameters`` in the body."""
        return [name for name, parameter in self.block.body.named_parameters() if parameter.requires_grad]

    def again(self) -> AbstractContextManager[bool]:
        """A context in which the body may run once more in this step; see ``Buffers.again``."""
        return self.network.buffers.again(self.block.body)

    @cached_property
    def local(self) -> LocalLoss | None:
        """The local loss on h_j, evaluated when it is first asked for; after ``release`` without its gradient.

        None where no auxiliary network takes part.
        """
        wanted = self.auxiliaries.evaluated
        return self.network.local_loss(self.block, self.output, self.auxiliaries) if wanted else None

    @property
    def local_gradient(self) -> Tensor:
        """The gradient of L_j with respect to h_j, in h_j's shape."""
        return reduce(torch.add, self.local_gradients)

    @property
    def local_gradients(self) -> Sequence[Tensor]:
        """The gradient of each auxiliary network's loss with respect to h_j, in h_j's shape; they sum to L_j's."""
        assert self.local is not None
        assert self.local.gradients is not None
        return self.local.gradients

    def pull_back(self, cotangents: Tensor) -> list[Tensor]:
        """The vector-Jacobian products of several ``(k, batch, ...)``, ``(k, *shape)`` for each of ``parameters``."""
        found = zip(*(self.vjp(cotangent, self.parameters) for cotangent in cotangents))
        return [torch.stack(tensors) if len(tensors) > 1 else tensors[0].unsqueeze(0) for tensors in found]

    def vjp(self, cotangent: Tensor, inputs: Sequence[Tensor | LayerCall], *, keep: bool = True) -> list[Tensor]:
        """Vector-Jacobian products of f_j from h_j to some of x_j, theta_j and points between, in one go.

        Args:
            cotangent: in h_j's shape.
            inputs: what to differentiate with respect to; a layer's use stands for its output.
            keep: whether the graph is needed again; what it stored is freed otherwise.
        """
        if not inputs:
            return []
        points: list[Any] = [point.output if isinstance(point, LayerCall) else point for point in inputs]
        with self.again():
            gradients = torch.autograd.grad(self.output, points, cotangent, retain_graph=keep, allow_unused=True)
        return [
            cotangent.new_zeros(point.shape) if gradient is None else dense(gradient)
            for gradient, point in zip(gradients, inputs)
        ]

    def jvp(self, moves: Mapping[str, Tensor]) -> Tensor:
        """Tangents of h_j, ``(count, batch, ...)``, as some parameters move along ``(count, *shape)`` each."""
        return jvps(self.block.body, self.input, moves, self.again)[1]

    def jvp_each(self, name: str, directions: Tensor) -> Tensor:
        """The tangent of h_j as a parameter moves along a direction ``(batch, *parameter.shape)`` of each sample."""
        return jvp_by_sample(self.block.body, self.input, name, directions, self.again)

    def jvp_from(self, call: LayerCall, tangent: Tensor) -> Tensor:
        """The tangent of h_j for a tangent of a layer's output, in its shape."""
        with self.again():
            return jvp_from_layer(self.block.body, call.layer, self.input, tangent)

    def release(self) -> None:
        """Let go of all activations and the graph, once the local loss has been evaluated; see ``check_unchanged``."""
        check_unchanged(self.index, self.input, self.version)
        if self.local is not None:
            self.local.gradients = None
        self.__dict__.update(input=None, output=None, graph=None)
        self.calls.clear()
        for known in ("padding", "samples_first", "calls_by_sample", "by_sample", "owners"):
            self.__dict__.pop(known, None)
