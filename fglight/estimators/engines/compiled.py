"""Steps compiled as a whole.

``torch.compile`` of single blocks would undo the single forward pass: a compiled backward pass computes the gradients
of all that went in, whatever is asked for. So a step is recorded as it is, operation by operation with its
vector-Jacobian products, and the record is compiled.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils import _pytree as pytree

from fglight.autodiff.diagnosis import first_sentence
from fglight.autodiff.local_loss import LocalLoss
from fglight.autodiff.rng import generators_kept
from fglight.autodiff.state import State
from fglight.errors import BlockError
from fglight.estimators.result import Step
from fglight.models.blocks import Block

for _result in (Step, LocalLoss):
    pytree.register_dataclass(_result)

Compiler = Callable[[GraphModule, list[Tensor]], Callable[..., Sequence[Tensor]]]
"""Makes a faster function of a graph of operations and example inputs."""

Estimate = tuple[Step, dict[nn.Parameter, Tensor]]
"""What a step computed, and the gradients."""


def inductor(graph: GraphModule, inputs: list[Tensor]) -> Callable[..., Sequence[Tensor]]:
    """The compiler behind ``torch.compile``, drawing the random numbers that are drawn without it."""
    return torch._inductor.compile(graph, inputs, options={"fallback_random": True})


def cudagraphs(graph: GraphModule, inputs: list[Tensor]) -> Callable[..., Sequence[Tensor]]:
    """The operations as they are, launched all at once by a CUDA graph.

    A step of small kernels takes a GPU less time than Python needs to ask for them. Gradients lie where the next step's
    will.

    Raises:
        BlockError: on another device, for a step of several processes, and for one that waits for the GPU.
    """
    images, labels, *network = inputs
    if images.device.type != "cuda":
        raise BlockError(f"compile=cudagraphs needs a CUDA device, not {images.device}: use compile=true or false")
    if any(getattr(node.target, "namespace", "") == "_c10d_functional" for node in graph.graph.nodes):
        raise BlockError("compile=cudagraphs is for one process on one GPU: use compile=true or false")
    images, labels = images.clone(), labels.clone()
    stream = torch.cuda.Stream(images.device)
    stream.wait_stream(torch.cuda.current_stream(images.device))
    with generators_kept(images.device), torch.cuda.stream(stream):  # kernels are chosen and loaded before the capture
        graph(*(tensor.clone() for tensor in inputs))
    captured = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(captured, stream=stream, capture_error_mode="thread_local"):  # loaders have threads too
            results = graph(images, labels, *network)
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        raise BlockError(
            "compile=cudagraphs cannot record a step that waits for the GPU, as eigendecompositions of activity_span "
            f"and combine=span do: use compile=true or false ({first_sentence(error)})"
        ) from error

    def replay(new_images: Tensor, new_labels: Tensor, *network: Tensor) -> Sequence[Tensor]:
        images.copy_(new_images)
        labels.copy_(new_labels)
        captured.replay()
        return results

    return replay


COMPILERS: dict[bool | str, Compiler] = {True: inductor, "cudagraphs": cudagraphs}
"""What the setting ``compile`` chooses among."""


class CompiledEstimate:
    """The computation of a step, compiled.

    Steps are of a kind if their batches have the same shape, with or without cosine, in training or evaluation mode.
    A kind is recorded when it comes twice in a row, and compiled for all times after; so the smaller batch at the end
    of an epoch, or the cosine that is logged now and then, does not cost a compilation.

    A record is good for the network and the estimator that it was made of: once a parameter is frozen or replaced, or a
    module, a part of the estimator or one of their settings, the kind is recorded anew. A step in which one of them
    changes every time (a module or a guess of your own that counts its calls in a plain number) is never compiled.

    Args:
        estimator: whose parts a step depends on.
        compute: what is compiled: takes blocks, images and labels, and changes nothing but buffers.
        compiler: what compiles its record.
    """

    def __init__(self, estimator: object, compute: Callable[..., Estimate], compiler: Compiler = inductor) -> None:
        self.estimator = estimator
        self.compute = compute
        self.compiler = compiler
        self.compiled: dict[tuple, tuple[State, Callable[[Tensor, Tensor], Estimate]]] = {}
        self.last: tuple[tuple, State] | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Copies have nothing compiled yet."""
        return {**vars(self), "compiled": {}, "last": None}

    def __call__(self, blocks: Sequence[Block], images: Tensor, labels: Tensor, *, cosine: bool) -> Estimate:
        """See ``GradientEstimator.estimate``."""
        modes = tuple(module.training for block in blocks for module in block.modules())
        batch = (images.shape, images.stride(), images.dtype, images.device, labels.shape, labels.dtype)
        autocast = torch.is_autocast_enabled(images.device.type) and torch.get_autocast_dtype(images.device.type)
        kind = (*blocks, *batch, autocast, cosine, modes)
        if kind in self.compiled:
            state, replay = self.compiled[kind]
            if state.is_unchanged():
                return replay(images, labels)
            del self.compiled[kind]
        if self.last is not None and kind == self.last[0] and self.last[1].is_unchanged():
            estimate, replay = self._record(blocks, images, labels, cosine=cosine)
            self.compiled[kind] = self._state(blocks), replay
            return estimate
        self.last = kind, self._state(blocks)
        return self.compute(blocks, images, labels, cosine=cosine)

    def _state(self, blocks: Sequence[Block]) -> State:
        """What a record takes for granted."""
        return State(blocks, lambda: [value for name, value in vars(self.estimator).items() if name != "_compute"])

    def _record(
        self, blocks: Sequence[Block], images: Tensor, labels: Tensor, *, cosine: bool
    ) -> tuple[Estimate, Callable[[Tensor, Tensor], Estimate]]:
        """Take a step, and compile what it did.

        Raises:
            BlockError: for what does not replay as it was: numbers read from tensors, and in-place operations between
                processes.
        """
        inputs = list(dict.fromkeys(t for block in blocks for t in (*block.parameters(), *block.buffers())))
        estimates, structure = [], []

        def run(images: Tensor, labels: Tensor, *inputs: Tensor) -> list[Tensor | None]:
            step, gradients = self.compute(blocks, images, labels, cosine=cosine)
            estimates.append((step, gradients))
            results, shape = pytree.tree_flatten(step)
            structure.append(shape)
            return [*gradients.values(), *results]

        torch.clear_autocast_cache()  # a cast that was made before would be a constant of the record
        try:
            graph = make_fx(run)(images, labels, *inputs)
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, TypeError) as error:
            raise BlockError(
                "compile=true cannot record a step that reads numbers from tensors, as batch norm with momentum=None "
                f"does, or has tensors of a class of their own: use compile=false ({first_sentence(error)})"
            ) from error
        if any(getattr(node.target, "namespace", "") == "c10d" for node in graph.graph.nodes):
            raise BlockError(
                "compile=true cannot go with layers that exchange tensors between processes in place, as synchronised "
                "batch norm does: use compile=false"
            )
        step, gradients = estimates[0]
        parameters = list(gradients)
        with torch.no_grad(), torch.autocast(images.device.type, enabled=False):  # the record has its casts
            compiled = self.compiler(graph, [images, labels, *inputs])

        def replay(images: Tensor, labels: Tensor) -> Estimate:
            with torch.no_grad(), torch.autocast(images.device.type, enabled=False):
                results = compiled(images, labels, *inputs)
            told = [result if result is None else result.clone() for result in results[len(parameters) :]]
            return pytree.tree_unflatten(told, structure[0]), dict(zip(parameters, results))

        return (step, gradients), replay
