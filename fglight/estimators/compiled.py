"""Steps compiled as a whole.

``torch.compile`` of single blocks would undo the single forward pass: a compiled backward pass computes the gradients
of all that went in, whatever is asked for. So a step is recorded as it is, operation by operation with its
vector-Jacobian products, and the record is compiled.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils import _pytree as pytree

from fglight.estimators.passes import LocalLoss, Step
from fglight.models.blocks import Block

Compiler = Callable[[GraphModule, list[Tensor]], Callable[..., Sequence[Tensor]]]
"""Makes a faster function of a graph of operations and example inputs."""


def inductor(graph: GraphModule, inputs: list[Tensor]) -> Callable[..., Sequence[Tensor]]:
    """The compiler behind ``torch.compile``, drawing the random numbers that are drawn without it."""
    return torch._inductor.compile(graph, inputs, options={"fallback_random": True})


class CompiledEstimate:
    """``GradientEstimator.estimate``, compiled.

    Steps are of a kind if their batches have the same shape, with or without cosine, in training or evaluation mode.
    A kind is recorded when it comes twice in a row, and compiled for all times after; so the smaller batch at the end
    of an epoch, or the cosine that is logged now and then, does not cost a compilation.

    A record knows tensors only: where a step depends on anything else that changes (a counter in a guess of your own),
    it keeps the value that it had.

    Args:
        estimate: what is compiled.
        compiler: what compiles its record.
    """

    def __init__(self, estimate: Callable[..., Step], compiler: Compiler = inductor) -> None:
        self.estimate = estimate
        self.compiler = compiler
        self.compiled: dict[tuple, Callable[[Tensor, Tensor], Step]] = {}
        self.last: tuple | None = None

    def __call__(
        self, model: nn.Module | Sequence[Block], images: Tensor, labels: Tensor, *, cosine: bool = False
    ) -> Step:
        """See ``GradientEstimator.estimate``."""
        blocks = list(getattr(model, "blocks", model))
        modes = tuple(module.training for block in blocks for module in block.modules())
        kind = (*blocks, images.shape, images.stride(), images.dtype, images.device, cosine, modes)
        if kind in self.compiled:
            return self.compiled[kind](images, labels)
        if kind == self.last:
            step, self.compiled[kind] = self._record(blocks, images, labels, cosine=cosine)
        else:
            step, self.last = self.estimate(blocks, images, labels, cosine=cosine), kind
        return step

    def _record(
        self, blocks: list[Block], images: Tensor, labels: Tensor, *, cosine: bool
    ) -> tuple[Step, Callable[[Tensor, Tensor], Step]]:
        """Take a step, and compile what it did.

        Raises:
            ValueError: for in-place operations between processes, which do not replay as they were.
        """
        inputs = list(dict.fromkeys(t for block in blocks for t in (*block.parameters(), *block.buffers())))
        steps, parameters, structure = [], [], []

        def run(images: Tensor, labels: Tensor, *inputs: Tensor) -> list[Tensor | None]:
            steps.append(self.estimate(blocks, images, labels, cosine=cosine))
            parameters.extend(t for t in inputs if t.grad is not None)
            results, shape = pytree.tree_flatten(_parts(steps[0]))
            structure.append(shape)
            return [p.grad for p in parameters] + results

        graph = make_fx(run)(images, labels, *inputs)
        if any(getattr(node.target, "namespace", "") == "c10d" for node in graph.graph.nodes):
            raise ValueError(
                "compile=true cannot go with layers that exchange tensors between processes in place, as synchronised "
                "batch norm does: accepted is compile=false"
            )
        with torch.no_grad():
            compiled = self.compiler(graph, [images, labels, *inputs])

        def replay(images: Tensor, labels: Tensor) -> Step:
            for block in blocks:
                block.zero_grad(set_to_none=True)
            with torch.no_grad(), torch.autocast(images.device.type, enabled=False):  # the record has its casts
                results = compiled(images, labels, *inputs)
            for parameter, gradient in zip(parameters, results):
                parameter.grad = gradient
            loss, logits, local, similarity = pytree.tree_unflatten(results[len(parameters) :], structure[0])
            return Step(loss, logits, [None if part is None else LocalLoss(*part, None) for part in local], similarity)

        return steps[0], replay


def _parts(step: Step) -> tuple:
    local = [None if part is None else (part.loss, part.logits) for part in step.local]
    return step.loss, step.logits, local, step.cosine
