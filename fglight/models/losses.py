"""Losses of the outputs of a network or of an auxiliary network: means over the batch.

Any function of outputs and labels that gives a mean over the batch may be one, torch's among them. Those here are
torch's with a check that outputs and labels go together, where torch would take labels for something else.
"""

from collections.abc import Callable

from torch import Tensor, nn

from fglight.errors import LabelError

Loss = Callable[[Tensor, Tensor], Tensor]
"""Gives the mean over the batch, a scalar, from outputs ``(batch, ...)`` and labels ``(batch, ...)``."""


class CrossEntropyLoss(nn.CrossEntropyLoss):
    """Of logits ``(batch, classes)`` and class indices ``(batch,)``; arguments are those of torch's.

    For labels that are probabilities of classes there is ``torch.nn.CrossEntropyLoss``.
    """

    def forward(self, output: Tensor, labels: Tensor) -> Tensor:
        """The mean over the batch.

        Raises:
            LabelError: for labels that are no class indices, and for a single class, whose cross-entropy is always 0.
        """
        if labels.is_floating_point() or output.shape[1] < 2:
            raise LabelError(
                f"cross-entropy is not possible of {_shown(output, labels)}: accepted are class indices (batch,) and "
                "outputs of two classes or more, or another loss such as loss=mse"
            )
        return super().forward(output, labels)


class MSELoss(nn.MSELoss):
    """Mean squared error of outputs and labels of the same shape; arguments are those of torch's."""

    def forward(self, output: Tensor, labels: Tensor) -> Tensor:
        """The mean over batch and outputs.

        Raises:
            LabelError: for labels of another shape, which torch would multiply out with a warning.
        """
        _check_alike("a mean squared error", output, labels)
        return super().forward(output, labels)


class BCEWithLogitsLoss(nn.BCEWithLogitsLoss):
    """Of logits and labels ``(batch, classes)``, 0 or 1 in any type: each sample may have several classes, or none.

    Arguments are those of torch's.
    """

    def forward(self, output: Tensor, labels: Tensor) -> Tensor:
        """The mean over batch and classes.

        Raises:
            LabelError: for labels of another shape.
        """
        _check_alike("a binary cross-entropy", output, labels)
        return super().forward(output, labels.to(output.dtype))


def _check_alike(name: str, output: Tensor, labels: Tensor) -> None:
    if output.shape != labels.shape:
        raise LabelError(
            f"{name} is not possible of {_shown(output, labels)}: accepted are labels of the outputs' shape, or "
            "another loss such as loss=cross_entropy, which takes class indices"
        )


def _shown(output: Tensor, labels: Tensor) -> str:
    kind = str(labels.dtype).removeprefix("torch.")
    return f"labels {tuple(labels.shape)} of {kind} with outputs {tuple(output.shape)}"
