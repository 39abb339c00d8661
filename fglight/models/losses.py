"""Losses of the outputs of a network or of an auxiliary network: means over the batch.

Any function of outputs and labels that gives a mean over the batch may be one, torch's among them. Those here are
torch's with a check that outputs and labels go together, where torch would take labels for something else.

A loss, or an auxiliary network with a loss of its own, may have a method ``divisor(labels)``: what the mean divides by,
a sum over labels, such as their number or the sum of their weights; None where it is no such mean. Several processes
weight the mean of each by it. A loss without is evaluated on the outputs of all processes.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from fglight.errors import LabelError

Loss = Callable[[Tensor, Tensor], Tensor]
"""Gives the mean over the batch, a scalar, from outputs ``(batch, ...)`` and labels ``(batch, ...)``."""


def divisor(owner: Any, labels: Tensor) -> Tensor | float | None:
    """What ``owner.divisor(labels)`` gives, of a loss or of an auxiliary network with a method ``loss``.

    None where it has no such method, or overrides or hooks into the loss that the method was written for.
    """
    methods = ("loss", "forward", "__call__")
    places = [getattr(owner, "__dict__", {}), *(vars(kind) for kind in type(owner).__mro__)]
    first: Any = next((place for place in places if any(name in place for name in methods)), {})
    hooks = ("_forward_hooks", "_forward_pre_hooks")
    hooked = not hasattr(owner, "loss") and any(getattr(owner, name, None) for name in hooks)
    return owner.divisor(labels) if "divisor" in first and not hooked else None


class CrossEntropyLoss(nn.CrossEntropyLoss):
    """Of logits ``(batch, classes)`` and class indices ``(batch,)``; arguments are those of torch's.

    For labels that are probabilities of classes there is ``torch.nn.CrossEntropyLoss``.
    """

    def forward(self, output: Tensor, labels: Tensor) -> Tensor:
        """The mean over the batch.

        Raises:
            LabelError: for labels that are no class indices of these outputs, and for a single class, whose
                cross-entropy is always 0.
        """
        fit = output.dim() > 1 and output.shape[1] > 1 and labels.shape == output.shape[:1] + output.shape[2:]
        if labels.is_floating_point() or labels.is_complex() or not fit:
            raise LabelError(
                "for cross-entropy, labels must be class indices (batch,) and outputs of two classes or more, got "
                f"{_shown(output, labels)}: there is loss=mse for values, and loss=multi_label for several classes each"
            )
        try:
            return super().forward(output, labels.long())
        except IndexError as error:  # on CPUs; a GPU tells it later, in its own way
            of_classes = labels[labels != self.ignore_index]
            raise LabelError(
                f"labels must be from 0 to {output.shape[1] - 1}, one of {output.shape[1]} classes, got "
                f"{int(of_classes.min())} to {int(of_classes.max())}"
            ) from error

    def divisor(self, labels: Tensor) -> Tensor | None:
        """The sum of the weights of all labels that are not ignored; None of a sum."""
        if self.reduction != "mean":
            return None
        counted = labels != self.ignore_index
        if self.weight is None:
            return counted.sum()
        return (self.weight[labels.where(counted, 0).long()] * counted).sum(dtype=torch.float64)


class MSELoss(nn.MSELoss):
    """Mean squared error of outputs and labels of the same shape; arguments are those of torch's."""

    def forward(self, output: Tensor, labels: Tensor) -> Tensor:
        """The mean over batch and outputs.

        Raises:
            LabelError: for labels of another shape, which torch would multiply out with a warning.
        """
        _check_alike("a mean squared error", output, labels)
        return super().forward(output, labels)

    def divisor(self, labels: Tensor) -> int | None:
        """The number of values; None of a sum."""
        return labels.numel() if self.reduction == "mean" else None


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

    def divisor(self, labels: Tensor) -> int | None:
        """The number of values; None of a sum, and with weights that are not simply of the classes."""
        weights = [weight for weight in (self.weight, self.pos_weight) if weight is not None]
        plain = self.reduction == "mean" and all(weight.shape == labels.shape[1:] for weight in weights)
        return labels.numel() if plain else None


class ErrorRate(nn.Module):
    """The share of samples whose class is not the one of the largest output: 1 - accuracy.

    It has no gradient; finite differences with ``exact_blocks(network, 0)`` need none (Malladi et al. 2023, Sec. 3.3).
    """

    def forward(self, output: Tensor, labels: Tensor) -> Tensor:
        """Of outputs ``(batch, classes)`` and class indices ``(batch,)``.

        Raises:
            LabelError: for labels that are no class indices of these outputs.
        """
        if labels.is_floating_point() or labels.shape != output.shape[:1] + output.shape[2:]:
            raise LabelError(f"labels must be class indices (batch,) for an error rate, got {_shown(output, labels)}")
        return (output.argmax(1) != labels).to(output.dtype).mean()

    def divisor(self, labels: Tensor) -> int:
        """The number of labels."""
        return labels.numel()


def _check_alike(name: str, output: Tensor, labels: Tensor) -> None:
    if output.shape != labels.shape:
        raise LabelError(
            f"labels must have the outputs' shape for {name}, got {_shown(output, labels)}: loss=cross_entropy takes "
            "class indices"
        )


def _shown(output: Tensor, labels: Tensor) -> str:
    kind = str(labels.dtype).removeprefix("torch.")
    return f"labels {tuple(labels.shape)} of {kind} with outputs {tuple(output.shape)}"
