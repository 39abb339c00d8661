"""Time of one gradient estimate on networks of other packages, as multiples of a backpropagation step's.

python benchmarks/networks.py            # prints the tables
python benchmarks/networks.py --write    # and writes them into benchmarks/NETWORKS.md
"""

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

import timing
import torch
from cases import BACKPROPAGATION, CASES, backpropagation, estimation
from tables import as_markdown, machine, ratio, show
from torch import Tensor

from fglight.models import BlockNetwork, split
from fglight.models.cutting import prepare

RESULTS = Path(__file__).parent / "NETWORKS.md"
HEADER = ["step", "ms", "time ratio", "goal"]
GOALS: dict[str, float | None] = {
    "local guess, activity": None,
    "gaussian guess, weight, network, forward mode": None,
    "gaussian guess, weight, network, finite differences": None,
    "local guess, weight per sample": 2.0,
}
BATCH, CLASSES = 8, 10
Problem = tuple[BlockNetwork, Tensor, Tensor]


def efficientnet(batch: int = BATCH) -> Problem:
    """EfficientNet-Lite0 of timm's on images, depthwise convolutions in most of its layers."""
    import timm

    network = timm.create_model("efficientnet_lite0", num_classes=CLASSES)
    prepare(network)
    return _problem(network, 3, torch.randn(batch, 3, 96, 96))


def vit(batch: int = BATCH) -> Problem:
    """ViT-Tiny of timm's on images: a class token, a table of positions, and twelve layers."""
    import timm

    network = timm.create_model("vit_tiny_patch16_224", num_classes=CLASSES, img_size=96)
    return _problem(network, ["blocks.4", "blocks.8"], torch.randn(batch, 3, 96, 96))


def bert(batch: int = BATCH) -> Problem:
    """A BERT of transformers' with six layers of width 128, on 64 tokens."""
    from transformers import BertConfig, BertForSequenceClassification

    sizes = {"hidden_size": 128, "num_hidden_layers": 6, "num_attention_heads": 4, "intermediate_size": 512}
    dropout = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    network = BertForSequenceClassification(BertConfig(vocab_size=1000, num_labels=CLASSES, **sizes, **dropout))
    tokens = torch.randint(1000, (batch, 64))
    return _problem(network, ["bert.encoder.layer.2", "bert.encoder.layer.4"], tokens)


def _problem(network: torch.nn.Module, blocks: int | list[str], batch: Tensor) -> Problem:
    return split(network, blocks, batch), batch, torch.arange(len(batch)) % CLASSES


NETWORKS: dict[str, Callable[..., Problem]] = {
    "EfficientNet-Lite0": efficientnet,
    "ViT-Tiny": vit,
    "BERT, 6 layers of width 128": bert,
}


def measure(problem: Problem, repeats: int) -> list[list[str]]:
    """The rows of one network's table, as in ``HEADER``.

    Args:
        problem: the network and a batch.
        repeats: how often every case is timed; cases and backpropagation take turns.
    """
    baseline = backpropagation(*problem)
    steps = {case.name: estimation(case, *problem) for case in CASES if case.name in GOALS}
    base, times = timing.compare(baseline, steps, repeats, torch.device("cpu"), time.process_time)
    rows = [[BACKPROPAGATION, f"{1000 * base:.0f}", *ratio(1)]]
    return rows + [
        [name, f"{1000 * found.seconds:.0f}", *ratio(found.ratio, GOALS[name])] for name, found in times.items()
    ]


def main() -> None:
    """Parse the command line, measure, print, and write where asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=9, help="timed repetitions of every case")
    parser.add_argument("--write", action="store_true", help=f"write the tables into {RESULTS.name}")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    where = machine(torch.device("cpu"))
    text = [
        "# Time of a step on other networks",
        f"`python {' '.join(sys.argv)}`: three blocks, batch {BATCH}, images of 96x96 or 64 tokens, float32, {where}; "
        f"processor time, medians of {arguments.repeats}. Each case is timed right after "
        "a backpropagation step, and the time ratio is the median of the ratios.",
    ]
    for name, network in NETWORKS.items():
        torch.manual_seed(0)
        rows = measure(network(), arguments.repeats)
        show(name, HEADER, rows)
        text += [f"## {name}", as_markdown(HEADER, rows)]
    if arguments.write:
        RESULTS.write_text("\n\n".join(text) + "\n")


if __name__ == "__main__":
    main()
