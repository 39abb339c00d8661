"""Mean losses and metrics of every block."""

import pytest
import torch
import torch.nn.functional as F
from torchmetrics import MeanAbsoluteError, R2Score
from torchmetrics.classification import MulticlassAccuracy

from fglight.errors import FglightError, LabelError
from fglight.training.metrics import Accuracy, BlockMetrics


def test_block_metrics_are_means_over_images():
    torch.manual_seed(0)
    metrics = BlockMetrics(3, {"accuracy": Accuracy(), "again": MulticlassAccuracy(4, average="micro")})
    everything = []
    for size in (5, 2):
        labels = torch.randint(4, (size,))
        logits = [torch.randn(size, 4) for _ in range(3)]
        metrics.update([F.cross_entropy(scores, labels) for scores in logits], logits, labels)
        everything.append((torch.stack(logits), labels))
    logits, labels = torch.cat([logits for logits, _ in everything], 1), torch.cat([labels for _, labels in everything])
    losses, scores = metrics.compute()
    for j in range(3):
        accuracy = pytest.approx((logits[j].argmax(1) == labels).float().mean().item())
        assert losses[j].item() == pytest.approx(F.cross_entropy(logits[j], labels).item(), rel=1e-6)
        assert scores[j] == {"accuracy": accuracy, "again": accuracy}
    metrics.reset()
    metrics.update([torch.tensor(2.0)] * 3, [torch.eye(4)] * 3, torch.arange(4))
    losses, scores = metrics.compute()
    assert losses.tolist() == [2.0] * 3
    assert scores == [{"accuracy": 1.0, "again": 1.0}] * 3


def test_block_metrics_of_the_network_alone():
    metrics = BlockMetrics(3, {"accuracy": Accuracy()})
    metrics.update([torch.tensor(2.0)], [torch.eye(4)], torch.tensor([0, 1, 0, 0]))
    losses, scores = metrics.compute()
    assert losses[-1] == 2
    assert scores == [{}, {}, {"accuracy": 0.5}]


@pytest.mark.parametrize(
    ("metrics", "labels", "words"),
    [
        (
            {"accuracy": Accuracy()},
            torch.rand(4, 1),
            r"labels must be class indices .batch,. for accuracy, got \(4, 1\) of torch.float32",
        ),
        ({"r2": R2Score()}, torch.arange(4), r"metrics r2 .* labels \(4,\) of torch.int64 with outputs \(4, 1\)"),
        ({"half": 0.5}, torch.rand(4, 1), "metric half must be a torchmetrics.Metric"),
        ({"loss": MeanAbsoluteError()}, torch.rand(4, 1), "any name but loss"),
        (
            {"each": R2Score(multioutput="raw_values")},
            torch.rand(4, 1).expand(4, 2),
            r"metric each must give one number, got \(2,\)",
        ),
    ],
)
def test_metrics_that_do_not_go_with_the_labels_are_refused_in_one_line(metrics, labels, words):
    def measure():
        made = BlockMetrics(1, metrics)
        made.update([torch.tensor(1.0)], [torch.rand(4, 1).expand(4, *labels.shape[1:] or (1,))], labels)
        made.compute()

    with pytest.raises(FglightError, match=words):
        measure()


def test_a_metric_of_too_few_samples_is_named():
    metrics = BlockMetrics(1, {"r2": R2Score()})
    metrics.update([torch.tensor(0.0)], [torch.zeros(1, 1)], torch.zeros(1, 1))
    with pytest.raises(LabelError, match=r"^metrics r2 are not all possible of 1 sample: "):
        metrics.compute()
