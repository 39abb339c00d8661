"""Train torchvision's vision transformer with forward gradients, on digits: every perturbation, both engines.

python examples/vision_transformer.py

It takes under a minute, most of it for weight_per_sample: attention has parameters that no single layer stands for, and
each of them takes a product with the block's Jacobian for every sample.
"""

import time

import torch
from own_blocks import digits
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torchvision.models import VisionTransformer

from fglight.estimators import (
    ActivityPerturbation,
    ActivitySpanPerturbation,
    ExactGuess,
    ForwardMode,
    GlobalTarget,
    GradientEstimator,
    LocalGuess,
    WeightPerSamplePerturbation,
    WeightPerturbation,
)
from fglight.models import BlockNetwork, split

PERTURBATIONS = {
    "activity": ActivityPerturbation(),
    "activity, channel (token)": ActivityPerturbation("channel"),
    "activity_span": ActivitySpanPerturbation(),
    "weight, network": WeightPerturbation("network"),
    "weight, block": WeightPerturbation("block"),
    "weight, tensor": WeightPerturbation("tensor"),
    "weight, filter": WeightPerturbation("filter"),
    "weight_per_sample": WeightPerSamplePerturbation(),
}


class Embedding(nn.Module):
    """What a ``VisionTransformer`` does before its encoder layers, with its own parameters."""

    def __init__(self, vit: VisionTransformer) -> None:
        super().__init__()
        self.conv_proj = vit.conv_proj
        self.class_token = vit.class_token
        self.pos_embedding = vit.encoder.pos_embedding

    def forward(self, images: Tensor) -> Tensor:
        """Tokens ``(batch, 1 + patches, channels)``, the class token first."""
        patches = self.conv_proj(images).flatten(2).mT
        return torch.cat([self.class_token.expand(len(images), -1, -1), patches], dim=1) + self.pos_embedding


class ClassToken(nn.Module):
    """Of all tokens ``(batch, tokens, channels)`` the first, ``(batch, channels)``."""

    def forward(self, tokens: Tensor) -> Tensor:
        """See above."""
        return tokens[:, 0]


def auxiliary(tokens: Tensor, classes: int) -> nn.Module:
    """What the transformer itself ends with: a norm and a linear layer on the class token."""
    channels = tokens.shape[2]
    return nn.Sequential(ClassToken(), nn.LayerNorm(channels), nn.Linear(channels, classes))


def in_blocks(vit: VisionTransformer, example: Tensor) -> BlockNetwork:
    """Embedding and first encoder layer, then a block for each encoder layer; the last one has the classifier."""
    chain = [Embedding(vit), *vit.encoder.layers, nn.Sequential(vit.encoder.ln, ClassToken()), vit.heads]
    return split(chain, range(2, len(vit.encoder.layers) + 1), example, auxiliary)


def main(steps: int = 64) -> None:
    """Train a network in every way and print one table."""
    torch.set_num_threads(1)  # networks this small gain nothing from more
    images, labels, test_images, test_labels = (x.expand(-1, 3, -1, -1) if x.dim() > 1 else x for x in digits())
    print(f"{'local guess':27}{'engine':9}{'train loss':>11}{'test accuracy':>15}{'time':>8}")
    rows = [("none: backpropagation", GradientEstimator(GlobalTarget(), ExactGuess(), WeightPerturbation()))]
    for name, perturbation in PERTURBATIONS.items():
        rows.append((name, GradientEstimator(GlobalTarget(), LocalGuess(), perturbation)))
        if name != "weight, filter":  # a derivative for each filter: one engine shows enough
            rows.append((name, GradientEstimator(GlobalTarget(), LocalGuess(), perturbation, engine=ForwardMode())))
    for name, estimator in rows:
        torch.manual_seed(0)
        vit = VisionTransformer(8, 4, num_layers=3, num_heads=2, hidden_dim=32, mlp_dim=64, num_classes=10)
        model = in_blocks(vit, images[:2])
        optimizer = torch.optim.AdamW(estimator.trained_parameters(model), lr=4e-3)
        start = time.perf_counter()
        for _ in range(steps):
            batch = torch.randint(len(images), (16,))
            estimator.estimate(model, images[batch], labels[batch])  # leaves the estimate in .grad
            optimizer.step()
        took = time.perf_counter() - start
        with torch.no_grad():
            loss = cross_entropy(vit(images), labels)  # the transformer as it was, trained
            accuracy = (vit(test_images).argmax(1) == test_labels).float().mean()
        engine = "forward" if isinstance(estimator.engine, ForwardMode) else "reverse"
        print(f"{name:27}{engine:9}{loss:11.3f}{100 * accuracy:13.1f} %{took:6.1f} s", flush=True)


if __name__ == "__main__":
    main()
