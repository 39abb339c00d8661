"""What a step of MeZO holds in memory beside inference and backpropagation, on networks of transformers' and timm's.

Totals, weights included, of a step with its update by plain gradient descent. MeZO is ``exact_blocks=0`` with
``engine.redraw=true``, whose optimizer takes each gradient as it comes.

python benchmarks/mezo.py
"""

import argparse

import timm
import torch
from memory import peak
from tables import machine, show
from torch import Tensor, nn
from transformers import BertConfig, BertForSequenceClassification

from fglight.estimators import (
    ExactGuess,
    FiniteDifferences,
    GaussianGuess,
    GlobalTarget,
    GradientEstimator,
    WeightPerturbation,
)
from fglight.models import BlockNetwork, exact_blocks, split
from fglight.models.cutting import prepare

HEADER = ("network", "weights", "largest tensor", "inference", "MeZO", "backpropagation", "MeZO/inference")
MB = 1e6
BLOCKS = 4
CPU = torch.device("cpu")


def images(batch: int) -> tuple[BlockNetwork, Tensor, Tensor]:
    """EfficientNet-Lite0 on images of 96x96, and a batch."""
    network = timm.create_model("efficientnet_lite0", num_classes=10)
    prepare(network)
    x = torch.randn(batch, 3, 96, 96)
    return split(network, BLOCKS, x), x, torch.randint(10, (batch,))


def texts(batch: int) -> tuple[BlockNetwork, Tensor, Tensor]:
    """A BERT of MiniLM-L6's size on texts of 64 tokens, and a batch."""
    sizes = {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536}
    network = BertForSequenceClassification(BertConfig(**sizes, num_labels=5))
    ids = torch.randint(1000, (batch, 64))
    x = torch.stack([ids, torch.ones_like(ids)], 1)

    def inputs(x: Tensor) -> dict[str, Tensor]:
        return {"input_ids": x[:, 0], "attention_mask": x[:, 1]}

    return split(network, BLOCKS, x, inputs=inputs), x, torch.randint(5, (batch,))


def measure(network: BlockNetwork, x: Tensor, labels: Tensor) -> tuple[int, int, int]:
    """What inference, a step of MeZO and a step of backpropagation hold at most, beside the weights."""
    space, blocks = WeightPerturbation("network"), exact_blocks(network, 0)
    mezo = GradientEstimator(GlobalTarget(), GaussianGuess(), space, engine=FiniteDifferences(redraw=True))
    descent = torch.optim.SGD(blocks.parameters(), lr=1e-4)

    def take(parameter: nn.Parameter) -> None:
        descent.step()
        parameter.grad = None

    def backpropagate() -> None:
        GradientEstimator(GlobalTarget(), ExactGuess(), space).estimate(blocks, x, labels)
        descent.step()
        blocks.zero_grad()

    inference = peak(torch.no_grad()(lambda: blocks(x)), blocks, CPU)
    backpropagation = peak(backpropagate, blocks, CPU)
    for parameter in mezo.trained_parameters(blocks):
        parameter.register_post_accumulate_grad_hook(take)
    return inference, peak(lambda: mezo.estimate(blocks, x, labels), blocks, CPU), backpropagation


def main() -> None:
    """Print the table."""
    argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None).parse_args()
    torch.manual_seed(0)
    rows = []
    for name, made in (("EfficientNet-Lite0", images), ("MiniLM-L6", texts)):
        for batch in (8, 32):
            network, x, labels = made(batch)
            parameters = [p.nbytes for block in network.blocks for p in block.body.parameters()]
            weights = sum(parameters)
            held = [weights + size for size in measure(network, x, labels)]
            sizes = [f"{size / MB:.1f} MB" for size in (weights, max(parameters), *held)]
            rows.append((f"{name}, batch {batch}", *sizes, f"{held[1] / held[0]:.2f}"))
    show(machine(CPU), HEADER, rows)


if __name__ == "__main__":
    main()
