"""Direct random target projection as a guess."""

import torch
from torch import Tensor

from fglight.autodiff.passes import BlockPass
from fglight.errors import BlockError
from fglight.estimators.guesses.dfa import DFAGuess


class DRTPGuess(DFAGuess):
    """The label through a fixed random matrix: g_j = onehot(y) B_j (Frenkel et al. 2021, arXiv 1909.01311, Sec. 2).

    B_j is that of ``DFAGuess``, whose error e has the same signs for all samples of a class: negative at the class,
    positive elsewhere. The one-hot label stands for these signs, up to a constant and to its own sign, which means
    nothing as long as B_j is as likely as -B_j.

    Needs the labels, and is known before any later block has run; no backward pass but the block's own, no transport of
    weights. Adapted to convolutions as ``DFAGuess`` is.
    """

    needs = frozenset()

    def signal(self, block_pass: BlockPass) -> Tensor:
        """See ``DFAGuess``: onehot(y).

        Raises:
            BlockError: the labels are no class indices.
        """
        labels, classes = block_pass.network.batch.labels, len(block_pass.block.get_buffer("feedback"))
        if labels.dim() > 1 or labels.is_floating_point() or classes < 2:
            raise BlockError(
                f"DRTPGuess feeds classes back, and the labels are {labels.dtype} {tuple(labels.shape)}, of {classes} "
                "outputs: use class indices (batch,) of two or more, as with loss=cross_entropy"
            )
        return labels.unsqueeze(1) == torch.arange(classes, device=labels.device)
