"""Mean losses and metrics of every block, accumulated on the device and over processes."""

from collections.abc import Mapping, Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torchmetrics import Metric, MetricCollection

from fglight.errors import ConfigError, FglightError, LabelError, one_line
from fglight.text import counted


class Accuracy(Metric):
    """Fraction of samples whose largest output is that of their class.

    A few operations an update, for it is taken of every block in every step.
    """

    full_state_update = False
    higher_is_better = True
    correct: Tensor
    samples: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("correct", torch.tensor(0), dist_reduce_fx="sum")
        self.add_state("samples", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, preds: Tensor, target: Tensor) -> None:
        """Add one batch.

        Args:
            preds: logits, ``(batch, classes)``.
            target: class indices, ``(batch,)``.

        Raises:
            LabelError: for labels that are no class indices.
        """
        if target.is_floating_point() or target.dim() != 1:
            raise LabelError(
                f"labels must be class indices (batch,) for accuracy, got {tuple(target.shape)} of {target.dtype}: "
                "choose other metrics"
            )
        self.correct += (preds.argmax(1) == target).sum()
        self.samples += len(target)

    def compute(self) -> Tensor:
        """The fraction so far."""
        return self.correct / self.samples


class MeanLosses(Metric):
    """The mean loss of every block.

    Args:
        blocks: number of blocks J; the last one is the network itself.
    """

    full_state_update = False
    loss_sum: Tensor
    samples: Tensor

    def __init__(self, blocks: int) -> None:
        super().__init__()
        self.add_state("loss_sum", torch.zeros(blocks, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("samples", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, losses: Sequence[Tensor], samples: int) -> None:
        """Add one batch: scalars of the last ``len(losses)`` blocks, and the number of this process's samples."""
        self.loss_sum[-len(losses) :] += torch.stack(list(losses)).double() * samples
        self.samples += samples

    def compute(self) -> Tensor:
        """Means over samples, ``(blocks,)``."""
        return self.loss_sum / self.samples


class BlockMetrics(nn.Module):
    """Mean loss and metrics of every block.

    Args:
        blocks: number of blocks J; the last one is the network itself.
        metrics: metrics of outputs and labels, by name.

    Raises:
        ConfigError: one is no metric.
    """

    def __init__(self, blocks: int, metrics: Mapping[str, Metric]) -> None:
        super().__init__()
        for name, metric in metrics.items():
            if not isinstance(metric, Metric) or name == "loss":
                raise ConfigError(
                    f"metric {name} must be a torchmetrics.Metric, of any name but loss, got {type(metric).__name__}"
                )
        self.losses = MeanLosses(blocks)
        own = MetricCollection(dict(metrics), compute_groups=False)
        self.metrics = cast(Sequence[MetricCollection], nn.ModuleList(own.clone() for _ in range(blocks)))

    def update(self, losses: Sequence[Tensor], outputs: Sequence[Tensor], labels: Tensor) -> None:
        """Add one batch.

        Args:
            losses: a scalar for each of the last ``len(losses)`` blocks, of the batch of all processes.
            outputs: ``(batch, ...)`` for each of them.
            labels: ``(batch, ...)``.

        Raises:
            LabelError: a metric is none of outputs and labels like these.
        """
        self.losses.update(losses, len(labels))
        for metrics, output in zip(self.metrics[-len(losses) :], outputs):
            try:
                metrics.update(output, labels)
            except (FglightError, torch.OutOfMemoryError):
                raise
            except (RuntimeError, TypeError, ValueError) as error:
                raise LabelError(
                    f"metrics {', '.join(map(str, metrics))} are not all possible of labels {tuple(labels.shape)} of "
                    f"{labels.dtype} with outputs {tuple(output.shape)}: {one_line(error)}"
                ) from error

    def compute(self) -> tuple[Tensor, list[dict[str, Tensor]]]:
        """The loss of every block, ``(blocks,)``, and the metrics of each that has had a batch, all scalars.

        Raises:
            ConfigError: a metric gives more than one number.
            LabelError: a metric is none of so few samples.
        """
        try:
            scores = [metrics.compute() if _updated(metrics) else {} for metrics in self.metrics]
        except ValueError as error:
            names, samples = ", ".join(map(str, self.metrics[-1])), counted(int(self.losses.samples), "sample")
            raise LabelError(f"metrics {names} are not all possible of {samples}: {one_line(error)}") from error
        for name, value in scores[-1].items():
            if value.numel() != 1:
                raise ConfigError(f"metric {name} must give one number, got {tuple(value.shape)}")
        return self.losses.compute(), scores

    def reset(self) -> None:
        """Begin anew."""
        self.losses.reset()
        for metrics in self.metrics:
            metrics.reset()


def _updated(metrics: MetricCollection) -> bool:
    return all(metric.update_called for metric in metrics.values())
