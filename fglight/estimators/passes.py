"""One forward pass, kept block by block, and the vector-Jacobian products that everything else is made of."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor, nn

from fglight.estimators.batch import Batch
from fglight.estimators.buffers import Buffers
from fglight.estimators.layers import CONVOLUTIONS, LayerCall, used_in
from fglight.models.blocks import Block


def trainable(module: nn.Module) -> list[nn.Parameter]:
    """The parameters of ``module`` that take a gradient, in the order of ``module.parameters()``."""
    return [parameter for parameter in module.parameters() if parameter.requires_grad]


@dataclass
class LocalLoss:
    """The loss L_j of a block's auxiliary network in one step.

    Attributes:
        loss: L_j, a scalar without graph.
        logits: of the auxiliary network, ``(batch, classes)``, without graph.
        gradient: of L_j with respect to h_j, in h_j's shape; None where nobody asked for it.
    """

    loss: Tensor
    logits: Tensor
    gradient: Tensor | None


@dataclass
class Step:
    """What one step computed besides the gradients; nothing here carries a graph.

    Attributes:
        loss: the network's loss L, a scalar.
        logits: of the head, ``(batch, classes)``.
        local: the local loss of each block 0..J-2, None for auxiliary networks that took no part.
        cosine: cosine similarity of guess and target, ``(J-1,)``, NaN for a block without parameters; None where it was
            not asked for or the guess is exact.
    """

    loss: Tensor
    logits: Tensor
    local: list[LocalLoss | None]
    cosine: Tensor | None


@dataclass
class BlockPass:
    """Block j in one forward pass: its input, its output and the graph between them, cut off from all other blocks.

    Attributes:
        index: j.
        block: the block.
        batch: the images and labels of the step.
        buffers: of the network, as they were before it ran.
        input: x_j = h_{j-1} without graph (the images for block 0).
        output: h_j = f_j(x_j), with the graph of this block alone; None before the block has run.
        parameters: the trained parameters theta_j of the body, in the order of ``body.parameters()``.
        evaluate: computes the local loss on h_j; None where no auxiliary network takes part.
        calls: the uses of the body's layers, where the perturbation records them.
        input_gradient: of the network's loss with respect to x_j; only for the last block, where it was asked for.
    """

    index: int
    block: Block
    batch: Batch
    buffers: Buffers
    input: Tensor
    output: Tensor | None
    parameters: list[nn.Parameter]
    calls: list[LayerCall] = field(default_factory=list)
    evaluate: Callable[[Tensor], LocalLoss] | None = None
    input_gradient: Tensor | None = None

    @cached_property
    def owners(self) -> dict[nn.Parameter, tuple[LayerCall, str]]:
        """The parameters for which a single use of a layer stands: that use, and the parameter's name there.

        A parameter that is used once more, by the same layer, by another one or by a function, has none, nor has one
        of a layer whose input was modified in place after it was used.
        """
        nodes, uses = used_in(self.output)
        return {
            parameter: (call, name)
            for call in self.calls
            if call.output.node in nodes and call.input._version == call.version
            for name, parameter in call.layer.named_parameters(recurse=False)
            if uses[parameter] == 1
        }

    @cached_property
    def weight_calls(self) -> dict[nn.Parameter, LayerCall]:
        """The weights of convolutions and linear layers that were used once, with their use."""
        return {
            parameter: call
            for parameter, (call, name) in self.owners.items()
            if name == "weight" and type(call.layer) in (nn.Linear, *CONVOLUTIONS)
        }

    def again(self, *, on_graph: bool = True) -> AbstractContextManager[bool]:
        """A context in which the body may run once more in this step; see ``Buffers.again``."""
        return self.buffers.again(self.block.body, on_graph=on_graph)

    @cached_property
    def local(self) -> LocalLoss | None:
        """The local loss on h_j, evaluated when it is first asked for; after ``release`` without its gradient."""
        return None if self.evaluate is None else self.evaluate(self.output)

    @property
    def local_gradient(self) -> Tensor:
        """The gradient of L_j with respect to h_j, in h_j's shape."""
        assert self.local is not None
        assert self.local.gradient is not None
        return self.local.gradient

    def to_parameters(self, cotangent: Tensor, *, keep: bool = True) -> list[Tensor]:
        """The vector-Jacobian product of f_j from h_j to theta_j, a tensor for each of ``parameters``."""
        return self.vjp(cotangent, self.parameters, keep=keep)

    def vjp(self, cotangent: Tensor, inputs: Sequence[Tensor | LayerCall], *, keep: bool = True) -> list[Tensor]:
        """Vector-Jacobian products of f_j from h_j to some of x_j, theta_j and points between, in one go.

        Args:
            cotangent: in h_j's shape.
            inputs: what to differentiate with respect to; a layer's use stands for its output.
            keep: whether the graph is needed again; what it stored is freed otherwise.
        """
        if not inputs:
            return []
        points = [point.output if isinstance(point, LayerCall) else point for point in inputs]
        with self.again(on_graph=False):
            gradients = torch.autograd.grad(self.output, points, cotangent, retain_graph=keep, allow_unused=True)
        return [
            cotangent.new_zeros(point.shape) if gradient is None else gradient
            for gradient, point in zip(gradients, inputs)
        ]

    def release(self) -> None:
        """Let go of all activations and the graph, for the memory, once the local loss has been evaluated."""
        if self.local is not None:
            self.local.gradient = None
        del self.input, self.output
        self.calls.clear()
        self.__dict__.pop("owners", None)
        self.__dict__.pop("weight_calls", None)


@torch.enable_grad()
def local_loss(
    block: Block, output: Tensor, labels: Tensor, buffers: Buffers, *, to_output: bool, train: bool
) -> LocalLoss:
    """Evaluate a block's local loss on its detached output, and what its gradients are wanted for.

    Args:
        block: block j < J-1.
        output: h_j, ``(batch, ...)``.
        labels: class indices, ``(batch,)``.
        buffers: of the network, as they were at the start of the step.
        to_output: whether the gradient with respect to h_j is wanted.
        train: whether the auxiliary network trains; its parameters' ``.grad`` is then set.
    """
    output = output.detach().requires_grad_(to_output)
    loss, logits = block.loss(output, labels)
    parameters = trainable(block.aux) if train else []
    inputs = [output] * to_output + parameters
    if not inputs:
        return LocalLoss(loss.detach(), logits.detach(), None)
    with buffers.again(block.aux, on_graph=False):
        gradients = torch.autograd.grad(loss, inputs, allow_unused=True, materialize_grads=True)
    for parameter, gradient in zip(parameters, gradients[len(inputs) - len(parameters) :]):
        parameter.grad = gradient
    return LocalLoss(loss.detach(), logits.detach(), gradients[0] if to_output else None)
