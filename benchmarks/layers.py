"""What becomes of torch's layers, as the table of ``docs/layers.md`` has it: told by ``estimator.check``.

python benchmarks/layers.py            # prints the table
python benchmarks/layers.py --write    # into docs/layers.md
"""

import re
import sys
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations
from torch.utils.checkpoint import checkpoint

from fglight.estimators import (
    ActivityPerturbation,
    ForwardMode,
    GlobalTarget,
    GradientEstimator,
    LocalGuess,
    WeightPerSamplePerturbation,
    WeightPerturbation,
)
from fglight.models import Block

PAGE = Path(__file__).parents[1] / "docs/layers.md"
BEGIN, END = "<!-- python benchmarks/layers.py --write -->\n", "<!-- end -->\n"
SAMPLES, TOKENS, WIDTH = 5, 3, 8
COLUMNS = {
    "`activity`": GradientEstimator(GlobalTarget(), LocalGuess(), ActivityPerturbation()),
    "`weight`": GradientEstimator(GlobalTarget(), LocalGuess(), WeightPerturbation()),
    "`weight_per_sample`": GradientEstimator(GlobalTarget(), LocalGuess(), WeightPerSamplePerturbation()),
    "`engine=forward`": GradientEstimator(GlobalTarget(), LocalGuess(), WeightPerturbation(), engine=ForwardMode()),
}


class Body(nn.Module):
    """A layer, or several, and a function of it and the input."""

    def __init__(self, layer: nn.Module, function: Callable) -> None:
        super().__init__()
        self.layer = layer
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        """``(batch, ...)``, what the function makes of it."""
        return self.function(self.layer, x)


class Doubled(nn.Linear):
    """A layer whose ``forward`` is not that of its class in torch."""

    def forward(self, x: Tensor) -> Tensor:
        """Twice what a linear layer gives out."""
        return 2 * super().forward(x)


class ReverseOnly(torch.autograd.Function):
    """A function that says nothing of forward mode."""

    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        """Twice its input."""
        return 2 * x

    @staticmethod
    def backward(ctx: object, *gradients: Tensor) -> Tensor:
        """Twice the cotangent."""
        return 2 * gradients[0]


def first(layer: nn.Module, x: Tensor) -> Tensor:
    """The first of several outputs."""
    return layer(x)[0]


def images(layer: nn.Module, dimensions: int = 2) -> tuple[nn.Module, Tensor]:
    """A layer and what it may take in: four channels of images, or of signals or volumes."""
    return layer, torch.randn(SAMPLES, 4, *[6] * dimensions)


def tokens(layer: nn.Module, function: Callable | None = None) -> tuple[nn.Module, Tensor]:
    """A layer, or a function of it, and tokens that it may take in."""
    return Body(layer, function) if function else layer, torch.randn(SAMPLES, TOKENS, WIDTH)


def cases() -> dict[str, tuple[nn.Module, Tensor]]:
    """Bodies by what they are called, each with an example of what it takes in."""
    linear, numbers = nn.Linear(WIDTH, WIDTH), torch.randint(9, (SAMPLES, TOKENS))
    places = torch.arange(TOKENS)
    found = {
        "Linear": tokens(linear),
        "Conv2d": images(nn.Conv2d(4, 4, 3)),
        "LayerNorm": tokens(nn.LayerNorm(WIDTH)),
        "GroupNorm": images(nn.GroupNorm(2, 4)),
        "RMSNorm": tokens(nn.RMSNorm(WIDTH)),
        "PReLU": images(nn.PReLU(4)),
        "Bilinear": tokens(nn.Bilinear(WIDTH, WIDTH, WIDTH), lambda layer, x: layer(x, x)),
        "Embedding": (nn.Embedding(9, WIDTH), numbers),
        "EmbeddingBag": (nn.EmbeddingBag(9, WIDTH), numbers),
        "MultiheadAttention": tokens(
            nn.MultiheadAttention(WIDTH, 2, batch_first=True), lambda layer, x: layer(x, x, x, need_weights=False)[0]
        ),
        "TransformerEncoderLayer": tokens(nn.TransformerEncoderLayer(WIDTH, 2, 16, dropout=0, batch_first=True)),
        "TransformerDecoderLayer": tokens(
            nn.TransformerDecoderLayer(WIDTH, 2, 16, dropout=0, batch_first=True), lambda layer, x: layer(x, x)
        ),
    }
    for kind in (nn.RNN, nn.GRU, nn.LSTM):
        found[kind.__name__] = tokens(kind(WIDTH, WIDTH, batch_first=True), first)
    for kind in (nn.RNNCell, nn.GRUCell):
        found[kind.__name__] = tokens(kind(WIDTH, WIDTH), lambda layer, x: layer(x[:, 0]))
    found["LSTMCell"] = tokens(nn.LSTMCell(WIDTH, WIDTH), lambda layer, x: layer(x[:, 0])[0])
    for d, (conv, transposed, batch, instance) in enumerate(
        (
            (nn.Conv1d, nn.ConvTranspose1d, nn.BatchNorm1d, nn.InstanceNorm1d),
            (nn.Conv2d, nn.ConvTranspose2d, nn.BatchNorm2d, nn.InstanceNorm2d),
            (nn.Conv3d, nn.ConvTranspose3d, nn.BatchNorm3d, nn.InstanceNorm3d),
        ),
        start=1,
    ):
        layers = [conv(4, 4, 3), transposed(4, 4, 3), batch(4), instance(4, affine=True)]
        found |= {type(layer).__name__: images(layer, d) for layer in layers}
    found = {f"`{name}`": case for name, case in found.items()}
    return found | {
        "layers without parameters": images(nn.Sequential(nn.ReLU(), nn.AvgPool2d(2))),
        "`Dropout` with p > 0": tokens(nn.Sequential(linear, nn.Dropout(0.1))),
        "`spectral_norm`": tokens(parametrizations.spectral_norm(nn.Linear(WIDTH, WIDTH))),
        "`weight_norm`": tokens(parametrizations.weight_norm(nn.Linear(WIDTH, WIDTH))),
        "a subclass with a `forward` of its own": tokens(Doubled(WIDTH, WIDTH)),
        "a layer used twice": tokens(linear, lambda layer, x: layer(torch.tanh(layer(x)))),
        "a weight used outside of its layer": tokens(linear, lambda layer, x: F.linear(layer(x), layer.weight.t())),
        "time before samples": tokens(linear, lambda layer, x: layer(x.transpose(0, 1)).transpose(0, 1)),
        "tokens or windows folded into the batch": tokens(linear, lambda layer, x: layer(x.flatten(0, 1)).view_as(x)),
        "an embedding of positions alone": tokens(nn.Embedding(TOKENS, WIDTH), lambda layer, x: x + layer(places)),
        "a checkpoint with `use_reentrant=False`": tokens(
            linear, lambda layer, x: checkpoint(layer, x, use_reentrant=False)
        ),
        "a checkpoint with `use_reentrant=True`": tokens(
            linear, lambda layer, x: checkpoint(layer, x, use_reentrant=True)
        ),
        "an `autograd.Function` without `jvp`": tokens(linear, lambda layer, x: ReverseOnly.apply(layer(x))),
    }


def fate(estimator: GradientEstimator, body: nn.Module, example: Tensor) -> tuple[str, str]:
    """What becomes of a body, as of the slowest of its layers: its path, and why."""
    with torch.no_grad():
        output = body(example)
    local = nn.Sequential(nn.Flatten(), nn.Linear(output.numel() // len(output), 2))
    rest = Block(nn.Sequential(nn.Flatten(), nn.Linear(output.numel() // len(output), 2)), nn.Identity())
    found = [layer for layer in estimator.check([Block(body, local), rest], example) if layer.block != 1]
    worst = max(found, key=lambda layer: ("fast", "slow", "refused").index(layer.path), default=None)
    if worst is None:
        return "fast", ""
    # In the words for any layer and any block.
    why = re.sub(rf"\ba {worst.kind}\b", "it", worst.why)
    return worst.path, re.sub(r"\b\S+ of block 0, a \w+, has (\w+)=\S+:", r"a module has \1 > 0:", why)


def table() -> str:
    """The table, with a row for all of which the same becomes, and below it why and what that costs."""
    torch.manual_seed(0)
    rows: dict[tuple[tuple[str, str], ...], list[str]] = {}
    for name, (body, example) in cases().items():
        rows.setdefault(tuple(fate(estimator, body, example) for estimator in COLUMNS.values()), []).append(name)
    reasons = list(dict.fromkeys(why for fates in rows for _, why in fates if why))
    lines = ["| | " + " | ".join(COLUMNS) + " |", "|---" * (len(COLUMNS) + 1) + "|"]
    for fates, names in rows.items():
        cells = [path + (f" ({reasons.index(why) + 1})" if why else "") for path, why in fates]
        lines.append(f"| {', '.join(sorted(names))} | {' | '.join(cells)} |")
    numbered = [f"{number}. {why}." for number, why in enumerate(reasons, start=1)]
    return "\n".join([*lines, "", *numbered]) + "\n"


def page(text: str) -> str:
    """The page with the table in its place."""
    before, _, rest = text.partition(BEGIN)
    return f"{before}{BEGIN}\n{table()}\n{END}{rest.partition(END)[2]}"


if __name__ == "__main__":
    if "--write" in sys.argv:
        PAGE.write_text(page(PAGE.read_text()))
    else:
        print(table())
