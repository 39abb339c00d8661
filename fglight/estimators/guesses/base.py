"""What every guess is: the direction that a target is projected on (Sec. 3.1).

A guess of your own subclasses ``Guess`` (or ``RandomGuess``, which needs one method), and a file in ``conf/guess``
names it.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import compress
from typing import Any, Literal

import torch
from torch import Tensor, nn

from fglight.autodiff.batch import Batch
from fglight.autodiff.buffers import dry_run
from fglight.autodiff.passes import BlockPass
from fglight.estimators.coefficients import Projection
from fglight.models.blocks import Block
from fglight.models.sizes import check_positive_ints


class Guess:
    """One or several directions in the space of a block's output or of its parameters.

    A guess of your own needs ``directions`` alone: in the space of the parameters, its directions are the
    vector-Jacobian products of those through the block. It may be asked with gradients turned off.

    Args:
        directions: how many directions k the target is projected on.
        combine: what becomes of k estimates (Flügel et al. 2024, arXiv 2410.17764, Sec. III, and their code): their
            ``mean``; the orthogonal projection on the ``span`` of the directions; or the one of the direction that is
            best aligned with the target, ``max`` |⟨t, g⟩| / |g|, the first of those that are alike. None: the first
            of ``combinations``.

    Attributes:
        random: whether directions are independent of the network, with mean zero and unit covariance (``RandomGuess``).
        uses_auxiliaries: whether the direction comes from the block's local loss.
        projects: whether a projection takes place; without, nothing but ``ExactGuess`` is of use.
        needs: what must be there besides when directions are asked for: ``error``, the gradient of L with respect to
            the logits, ``block_pass.network.error`` ``(batch, classes)``, for which forward mode runs the network once
            more; ``next``, block j+1 with its input x_{j+1} = h_j, output and graph, ``block_pass.next``.
        pulled: whether ``directions`` are pulled into the space; without, they are drawn there.
        randomness: whether random numbers are drawn for directions: None, ``shared`` (alike in all processes but for
            those of single samples), or ``samples`` (for every sample in any space). Blocks are asked from 0 on.
        trains_auxiliaries: whether auxiliary networks may train at all with this guess.
        coefficient: the factor of a direction where ``perturb.coefficient`` is null: a ``Coefficient``, or a method of
            (⟨t, g⟩, |g|^2).
        keeps: names of tensors that last from step to step, as buffers of the blocks 0..J-2; see ``begin``.
        several: whether the setting ``directions`` can be more than one.
        combinations: what the setting ``combine`` can be.

    Raises:
        ValueError: for more directions than the guess can have, or an unknown way to combine them.
    """

    random = False
    uses_auxiliaries = False
    projects = True
    needs: frozenset[str] = frozenset()
    pulled = True
    randomness: Literal["shared", "samples"] | None = None
    trains_auxiliaries = True
    coefficient: Callable[[Tensor, Tensor], Tensor] = Projection()
    keeps: tuple[str, ...] = ()
    several = False
    combinations: tuple[str, ...] = ("mean", "span", "max")

    def __init__(self, directions: int = 1, combine: str | None = None) -> None:
        check_positive_ints("guess", directions=directions)
        if directions > 1 and not self.several:
            raise ValueError(f"guess.directions must be 1 for {type(self).__name__}, got {directions}")
        self.k = directions
        self.combine = self.combinations[0] if combine is None else combine
        if self.combine not in self.combinations:
            raise ValueError(
                f"guess.combine must be one of {', '.join(self.combinations)} for {type(self).__name__}, got {combine}"
            )

    @property
    def is_gradient(self) -> bool:
        """Whether directions of parameters are gradients, pulled back through the block, and changed by hooks."""
        return self.pulled and type(self).in_space is Guess.in_space

    def space(self, chosen: Any) -> Any:
        """The space of the projection, a ``Perturbation``: the chosen one, unless the guess has one of its own."""
        return chosen

    def check(self, space: Any) -> None:
        """Refuse a space that the guess has no directions in.

        Args:
            space: a ``Perturbation``.

        Raises:
            ValueError: in one line.
        """

    def count(self, block: Block) -> int:
        """How many directions a block j < J-1 has."""
        return self.k

    @torch.no_grad()
    def set_up(self, blocks: Sequence[Block], images: Tensor) -> None:
        """Give every block that does not keep it what ``begin`` gives; called before every step.

        Called before the network is copied, as averages of weights do, it lets the copy have it, too. In a process
        group every process has to take part.

        Args:
            blocks: all blocks of the network.
            images: an example batch.
        """
        missing = [not block._buffers.keys() >= set(self.keeps) for block in blocks[:-1]]
        if not any(missing):
            return
        batch = Batch.of(images, images)
        *outputs, logits = dry_run(blocks, images)
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

    def prepare(self, blocks: Sequence[Block]) -> None:
        """Prepare for a step, before its forward pass.

        Args:
            blocks: all blocks of the network.
        """

    def update(self, block: Block, estimate: Mapping[nn.Parameter, Tensor]) -> None:
        """Called after every step with the estimate that came of it, for each block 0..J-2.

        Args:
            block: block j.
            estimate: of each of its trained parameters, the same in all processes.
        """

    def directions(self, block_pass: BlockPass) -> Tensor:
        """The directions in the space of h_j, of a guess that is ``pulled``.

        Args:
            block_pass: block j, which has run.

        Returns:
            ``(k, batch, ...)`` for h_j of shape ``(batch, ...)``.
        """
        raise NotImplementedError(f"{type(self).__name__} has no directions in the space of h_j to pull anywhere")

    def in_space(
        self, block_pass: BlockPass, pulled: Sequence[Tensor] | None, likes: Sequence[Tensor], *, by_sample: bool
    ) -> Iterable[Tensor]:
        """The directions in the space of a perturbation: what was pulled there, unless they are drawn there.

        Args:
            block_pass: block j.
            pulled: ``directions`` in that space, of which parameters have the vector-Jacobian products, ``(k, *shape)``
                for each of ``likes``; None of a guess that is not ``pulled``.
            likes: the tensors of the space: h_j, a parameter, or one that is expanded to ``(batch, *shape)``.
            by_sample: whether dimension 0 of ``likes`` is the sample.

        Returns:
            ``(k, *shape)`` for each of ``likes``, one after the other where they are drawn.
        """
        return list(pulled or ())

    def sample(self, like: Tensor) -> Tensor:
        """Draw random numbers; only guesses that draw can.

        Args:
            like: what they are for.

        Returns:
            Random numbers in the shape, dtype and device of ``like``.
        """
        raise NotImplementedError(f"{type(self).__name__} is not random: it has nothing to draw")

    def length_correction(self, k: int, dimension: int) -> float:
        """The factor of an estimate by k directions in a space of so many dimensions, see ``RandomGuess``."""
        return 1.0


def stack(directions: Sequence[Tensor]) -> Tensor:
    """Directions one below the other, ``(k, *shape)``; a view of a single one."""
    return directions[0].unsqueeze(0) if len(directions) == 1 else torch.stack(list(directions))
