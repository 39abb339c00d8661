"""Direct feedback alignment as a guess."""

from collections.abc import Sequence

from torch import Tensor

from fglight.autodiff.passes import BlockPass
from fglight.errors import BlockError
from fglight.estimators.guesses.base import Guess
from fglight.models.blocks import Block


class DFAGuess(Guess):
    """The error at the output through a fixed random matrix: g_j = e B_j (Nøkland 2016, arXiv 1609.01596, Eq. 8).

    e is the gradient of L with respect to the logits, ``(batch, classes)``, and B_j is drawn once, with entries
    N(0, 1/classes). With ``perturb.coefficient=one`` and any target, blocks follow g_j itself, which is direct feedback
    alignment as published; with others, g_j is what the target is projected on.

    Needs the error at the output, and so the whole forward pass; no backward pass but the block's own, no transport of
    weights from one block to another. With convolutions, B_j has a column for every channel and position of h_j; and
    where the paper's feedback arrives at every layer, behind its nonlinearity, here it does at every block.
    """

    needs = frozenset({"error"})
    keeps = ("feedback",)

    def begin(self, block: Block, output: Tensor, classes: int) -> Sequence[Tensor]:
        """See ``Guess``: B_j, ``(classes, *shape)`` for h_j of shape ``(batch, *shape)``."""
        return [output.new_empty(classes, *output.shape[1:]).normal_(std=classes**-0.5)]

    def signal(self, block_pass: BlockPass) -> Tensor:
        """What is fed back, ``(batch, classes)``: e.

        Raises:
            BlockError: the loss does not come from the logits, or these are not ``(batch, classes)``.
        """
        if block_pass.network.error is None:
            head = type(block_pass.network.blocks[-1].aux).__name__
            raise BlockError(
                f"{type(self).__name__} is not possible where the loss of the head, a {head}, does not come from its "
                "logits: use a loss that does"
            )
        error = block_pass.network.error
        if error.dim() != 2:
            raise BlockError(
                f"{type(self).__name__} feeds back (batch, classes), and the network gives {tuple(error.shape)}: "
                "use a head that gives two dimensions, not (batch,)"
            )
        return error

    def directions(self, block_pass: BlockPass) -> Tensor:
        """See ``Guess``.

        Raises:
            BlockError: h_j had another shape when B_j was drawn.
        """
        feedback = block_pass.block.get_buffer("feedback")
        if feedback.shape[1:] != block_pass.output.shape[1:]:
            raise BlockError(
                f"the output of block {block_pass.index} is {tuple(block_pass.output.shape[1:])} for a sample, and was "
                f"{tuple(feedback.shape[1:])} when {type(self).__name__} drew its feedback: use one shape"
            )
        fed_back = self.signal(block_pass).to(feedback.dtype) @ feedback.view(len(feedback), -1)
        return fed_back.view_as(block_pass.output).to(block_pass.output.dtype).unsqueeze(0)
