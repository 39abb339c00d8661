"""What every guess is: the direction that a target is projected on (Sec. 3.1).

A guess of your own subclasses ``Guess`` (or ``RandomGuess``, which needs one method), and a file in ``conf/guess``
names it.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from itertools import compress

import torch
from torch import Tensor, nn

from fglight.estimators.batch import Batch
from fglight.estimators.buffers import dry_run
from fglight.estimators.coefficients import Projection
from fglight.estimators.linalg import span_coefficients
from fglight.estimators.passes import BlockPass
from fglight.models.blocks import Block


class Guess(ABC):
    """One or several directions in the space of a block's output or of its parameters.

    A guess of your own needs ``activity`` alone: in the space of the parameters, its direction is the vector-Jacobian
    product of that through the block. It may be asked with gradients turned off.

    Args:
        directions: how many directions k the target is projected on.
        combine: what becomes of k estimates (Flügel et al. 2024, arXiv 2410.17764, Sec. III, and their code): their
            ``mean``; the orthogonal projection on the ``span`` of the directions; or the one of the direction that is
            best aligned with the target, ``max`` |⟨t, g⟩| / |g|, the first of those that are alike. None: the first
            of ``combinations``.

    Attributes:
        random: whether directions are independent of the network, with mean zero and unit covariance (``RandomGuess``).
        draws: whether random numbers are drawn for directions in the space that they are asked for: alike in all
            processes, but for those of samples.
        uses_auxiliaries: whether the direction comes from the block's local loss.
        trains_auxiliaries: whether auxiliary networks may train at all with this guess.
        projects: whether a projection takes place; without, the estimate is the target.
        trains_blocks: whether blocks 0..J-2 get a gradient at all.
        several: whether ``directions`` can be more than one.
        combinations: what ``combine`` can be.
        rescale: whether the coefficients of a span are stretched (``RandomGuess``).
        coefficient: the factor of a direction where ``perturb.coefficient`` is null: a ``Coefficient``, or a method of
            (⟨t, g⟩, |g|^2).
        needs_graph: whether ``weight`` needs the block to have run, with its graph.
        needs_next_block: whether ``here.next`` is needed: block j+1 with its input x_{j+1} = h_j, output and graph. All
            graphs then stay until the step is over.
        needs_error: whether ``here.network.error`` is needed, the gradient of L with respect to the logits, ``(batch,
            classes)``. Forward mode then runs the network once more.
        draws_samples: whether random numbers are drawn for every sample in any space, which processes must not draw
            alike.
        alike: whether ``weight`` gives the same in all processes by itself.
        only_weight: whether there are directions for the batch gradient of parameters alone (``perturb=weight``).
        keeps: names of tensors that last from step to step, as buffers of the blocks 0..J-2; see ``begin``.

    Raises:
        ValueError: for more directions than the guess can have, or an unknown way to combine them.
    """

    random = False
    draws = False
    uses_auxiliaries = False
    trains_auxiliaries = True
    projects = True
    trains_blocks = True
    several = False
    combinations: tuple[str, ...] = ("mean", "span", "max")
    rescale = False
    coefficient: Callable[[Tensor, Tensor], Tensor] = Projection()
    needs_graph = True
    needs_next_block = False
    needs_error = False
    draws_samples = False
    alike = False
    only_weight = False
    keeps: tuple[str, ...] = ()

    def __init__(self, directions: int = 1, combine: str | None = None) -> None:
        if type(directions) is not int or directions < 1:
            raise ValueError(f"guess.directions={directions} is not possible: accepted is a whole number from 1 on")
        if directions > 1 and not self.several:
            raise ValueError(f"guess.directions={directions} means nothing for {type(self).__name__}: accepted is 1")
        self.directions = directions
        self.combine = self.combinations[0] if combine is None else combine
        if self.combine not in self.combinations:
            raise ValueError(
                f"guess.combine={combine} is not possible with {type(self).__name__}: "
                f"accepted is {', '.join(self.combinations)}"
            )

    @property
    def pulled(self) -> bool:
        """Whether directions of parameters are pulled back through the block, hooks of parameters and all."""
        return type(self).weight is Guess.weight and type(self).by_sample is Guess.by_sample

    @property
    def drawn(self) -> bool:
        """Whether random numbers are drawn when directions are asked for: blocks are then taken from 0 on."""
        return self.draws or self.draws_samples or self.directions > 1

    def count(self, block: Block) -> int:
        """How many directions a block j < J-1 has."""
        return self.directions

    @torch.no_grad()
    def set_up(self, blocks: Sequence[Block], batch: Batch) -> None:
        """Have every block that does not keep what ``begin`` gives; called before every step.

        Args:
            blocks: all blocks of the network.
            batch: an example.
        """
        missing = [not block._buffers.keys() >= set(self.keeps) for block in blocks[:-1]]
        if not any(missing):
            return
        *outputs, logits = dry_run(blocks, batch.images)
        for block, output in compress(zip(blocks, outputs), missing):
            for name, tensor in zip(self.keeps, self.begin(block, output, logits.shape[1:].numel())):
                block.register_buffer(name, batch.first(tensor))

    def begin(self, block: Block, output: Tensor, classes: int) -> Sequence[Tensor]:
        """What a block keeps at first, a tensor for each of ``keeps``.

        The tensors move with the network, to a device or another dtype, are in its checkpoints and never in an
        optimizer.

        Args:
            block: block j < J-1.
            output: an example of its output h_j, ``(batch, ...)``.
            classes: the number of classes.
        """
        return []

    def prepare(self, blocks: Sequence[Block]) -> None:  # noqa: B027 (most guesses have nothing to prepare)
        """Prepare for a step, before its forward pass.

        Args:
            blocks: all blocks of the network.
        """

    def learn(self, block: Block, estimate: Mapping[nn.Parameter, Tensor]) -> None:  # noqa: B027
        """Called after every step with the estimate that came of it, for each block 0..J-2.

        Args:
            block: block j.
            estimate: of each of its trained parameters, the same in all processes.
        """

    @abstractmethod
    def activity(self, here: BlockPass) -> Tensor:
        """The directions in the space of h_j.

        Args:
            here: block j, which has run.

        Returns:
            ``(k, batch, ...)`` for h_j of shape ``(batch, ...)``.
        """

    def cotangents(self, here: BlockPass) -> Tensor:
        """What is pulled back to the space of the parameters, ``(k, batch, ...)``: here, ``activity``."""
        return self.activity(here)

    def weight(self, here: BlockPass) -> list[Tensor]:
        """The directions in the space of theta_j: those of ``activity``, pulled back through the block.

        Args:
            here: block j, which has run where ``needs_graph``; its graph is freed.

        Returns:
            ``(k, *shape)`` for each of ``here.parameters``.
        """
        if not here.parameters:
            return []
        cotangents = self.cotangents(here)
        by_direction = [
            here.to_parameters(cotangent, keep=m + 1 < len(cotangents)) for m, cotangent in enumerate(cotangents)
        ]
        return [stack(tensors) for tensors in zip(*by_direction)]

    def by_sample(self, directions: Tensor | None, like: Tensor) -> Tensor:
        """Every sample's directions of one parameter, ``(k, batch, *parameter.shape)``.

        Args:
            directions: what ``cotangents``, pulled back, give at each sample; None for a random guess.
            like: of shape ``(batch, *parameter.shape)``.
        """
        assert directions is not None
        return directions

    def sample(self, like: Tensor) -> Tensor:
        """Draw random numbers; only guesses that draw can.

        Args:
            like: what they are for.

        Returns:
            Random numbers in the shape, dtype and device of ``like``.
        """
        raise NotImplementedError(f"{type(self).__name__} is not random: it has nothing to draw")

    def coefficients(
        self, products: Tensor | None, gram: Tensor, coefficient: Callable[[Tensor, Tensor], Tensor] | None = None
    ) -> Tensor:
        """The factors c that turn directions g_1 .. g_k into the estimate of a target t, the sum of c_m g_m.

        Args:
            products: ⟨t, g_m⟩, ``(..., k)``; None where the coefficient needs none.
            gram: ⟨g_l, g_m⟩, ``(..., k, k)``.
            coefficient: of a single direction; None: the guess's own.

        Returns:
            The factors, ``(..., k)``.
        """
        if self.combine == "span":
            return span_coefficients(products, gram)
        squares = gram.diagonal(dim1=-2, dim2=-1)
        factors = (coefficient or self.coefficient)(products, squares)
        if self.combine != "max":
            return factors / factors.shape[-1]
        aligned = products.abs() * torch.where(squares > 0, squares, torch.inf).rsqrt()
        # In one dimension all are aligned alike: rounding must not choose among them.
        best = aligned >= (1 - torch.finfo(aligned.dtype).eps ** 0.5) * aligned.amax(-1, keepdim=True)
        first = best.to(torch.uint8).argmax(-1, keepdim=True)
        return torch.zeros_like(factors).scatter(-1, first, factors.gather(-1, first))

    def stretched(self, coefficients: Tensor, dimension: int) -> Tensor:
        """What becomes of ``coefficients`` in a space of so many dimensions, see ``RandomGuess``; here they stay."""
        return coefficients


def stack(directions: Sequence[Tensor]) -> Tensor:
    """Directions one below the other, ``(k, *shape)``; a view of a single one."""
    return directions[0].unsqueeze(0) if len(directions) == 1 else torch.stack(list(directions))
