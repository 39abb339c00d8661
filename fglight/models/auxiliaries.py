"""Auxiliary networks a_j (Sec. 4.1, App. A.2 and B.2) and the classifier head.

Each maps a block's output, feature maps or what ``as_maps`` makes some of, to logits ``(batch, classes)``, or as many
other outputs. The constructors of the paper's take ``channels`` (of the block's output), ``num_classes``, ``blocks``
(how many the paper's network is cut into; None for other networks), ``width`` (its width factor) and ``hidden`` (None:
the default for these), so that a network builds any of them in the same way. ``PooledAuxiliary`` takes outputs of any
shape.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fglight.memory_format import as_memory_format
from fglight.models.losses import CrossEntropyLoss


def channels_of(output: Tensor) -> int:
    """How many channels maps have, or tokens ``(batch, tokens, channels)``, or features ``(batch, channels)``."""
    return output.shape[1 if output.dim() > 3 else -1]


def as_maps(output: Tensor) -> Tensor:
    """A block's output as feature maps ``(batch, channels, height, width)``.

    Tokens ``(batch, tokens, channels)`` are a square's, row by row; where all but the first are, that is the class
    token, which has no place and is left out. Any others are a single row. Features ``(batch, channels)`` are a map of
    one position.
    """
    if output.dim() > 3:
        return output
    tokens = output.reshape(len(output), -1, output.shape[-1])
    count = tokens.shape[1]
    side = math.isqrt(count)
    if side**2 != count and math.isqrt(count - 1) ** 2 == count - 1:
        tokens, side = tokens[:, 1:], math.isqrt(count - 1)
    return as_memory_format(tokens.mT.unflatten(2, (side if side**2 == tokens.shape[1] else 1, -1)))


class _OnMaps(nn.Sequential):
    """Layers on what ``as_maps`` makes of a block's output."""

    def forward(self, output: Tensor) -> Tensor:
        return super().forward(as_maps(output))


def _default_hidden(eight: int, sixteen: int, other: int, blocks: int | None, width: float) -> int:
    """The hidden width for 8 blocks (App. A.2), 16 (the released code) or another network, scaled, at least 1."""
    return max(1, int((other if blocks is None else eight if blocks <= 8 else sixteen) * width))


class CNNAuxiliary(_OnMaps):
    """A 1x1 convolution to ``hidden`` channels, ``depth`` 3x3 stride-2 convolutions, 2x2 pooling, linear (App. A.2).

    Args:
        channels: channels of the block's output.
        num_classes: number of classes.
        blocks: number of blocks of the paper's network, which selects the hidden width: 32 with 8 (App. A.2), 16 with
            16 (the released code); with other networks, None, it is a quarter of ``channels``, but 8 at least.
        width: width factor of the network, scales the hidden width.
        hidden: hidden channels; None takes as many as said above.
        depth: number of strided convolutions.
    """

    def __init__(
        self,
        channels: int,
        num_classes: int,
        blocks: int | None = None,
        width: float = 1.0,
        hidden: int | None = None,
        depth: int = 3,
    ) -> None:
        hidden = hidden or _default_hidden(32, 16, max(8, channels // 4), blocks, width)
        layers: list[nn.Module] = [nn.Conv2d(channels, hidden, 1, bias=False), nn.BatchNorm2d(hidden), nn.ReLU(True)]
        for _ in range(depth):
            layers += [nn.Conv2d(hidden, hidden, 3, 2, 1, bias=False), nn.BatchNorm2d(hidden), nn.ReLU(True)]
        super().__init__(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4 * hidden, num_classes))


class MLPAuxiliary(_OnMaps):
    """2x2 pooling, ``depth`` linear-BN-ReLU layers of ``hidden`` units, linear (App. A.2).

    Args:
        channels: channels of the block's output.
        num_classes: number of classes.
        blocks: number of blocks of the paper's network, which selects the hidden width: 1024 with 8 (App. A.2), 512
            with 16 (the released code); with other networks, None, it is ``channels``.
        width: width factor of the network, scales the hidden width.
        hidden: hidden units; None takes as many as said above.
        depth: number of hidden layers.
    """

    def __init__(
        self,
        channels: int,
        num_classes: int,
        blocks: int | None = None,
        width: float = 1.0,
        hidden: int | None = None,
        depth: int = 3,
    ) -> None:
        hidden = hidden or _default_hidden(1024, 512, channels, blocks, width)
        layers: list[nn.Module] = []
        for inputs in [4 * channels] + [hidden] * (depth - 1):
            layers += [nn.Linear(inputs, hidden, bias=False), nn.BatchNorm1d(hidden), nn.ReLU(True)]
        super().__init__(nn.AdaptiveAvgPool2d(2), nn.Flatten(), *layers, nn.Linear(hidden, num_classes))


class LinearAuxiliary(_OnMaps):
    """Batch norm, 2x2 pooling, linear (Sec. 4.1).

    Args:
        channels: channels of the block's output.
        num_classes: number of classes.
        blocks: accepted for uniformity, unused.
        width: accepted for uniformity, unused.
        hidden: must be None, there is no hidden layer.
        pool: side of the pooled map.
    """

    def __init__(
        self,
        channels: int,
        num_classes: int,
        blocks: int | None = None,
        width: float = 1.0,
        hidden: int | None = None,
        pool: int = 2,
    ) -> None:
        super().__init__(
            nn.BatchNorm2d(channels),
            nn.AdaptiveAvgPool2d(pool),
            nn.Flatten(),
            nn.Linear(pool**2 * channels, num_classes),
        )


class Head(LinearAuxiliary):
    """The classifier of the last block: batch norm (as in the released code), global average pooling, linear.

    Args:
        channels: channels of the last block's output.
        num_classes: number of classes.
    """

    def __init__(self, channels: int, num_classes: int) -> None:
        super().__init__(channels, num_classes, pool=1)


def _similarity(features: Tensor) -> Tensor:
    """Cosine similarity between the samples' centred features, ``(batch, features)`` to ``(batch, batch)``."""
    centred = features - features.mean(dim=1, keepdim=True)
    unit = F.normalize(centred, dim=1, eps=1e-8)
    return (unit @ unit.T).clamp(-1, 1)


class PooledAuxiliary(nn.Module):
    """The mean over all positions, then a linear layer: for outputs of any kind.

    Args:
        example: of the block's output: images ``(batch, channels, height, width)``, or with any number of dimensions
            from two up behind the channels; tokens ``(batch, tokens, channels)``; or plain ``(batch, channels)``.
        num_classes: number of classes.
    """

    def __init__(self, example: Tensor, num_classes: int) -> None:
        super().__init__()
        self.linear = nn.Linear(channels_of(example), num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``(batch, classes)``."""
        positions = (
            x.flatten(2).mT if x.dim() > 3 else x.reshape(len(x), -1, x.shape[-1])
        )  # (batch, positions, channels)
        return self.linear(positions.mean(1))


class PredSimAuxiliary(nn.Module):
    """Similarity matching plus prediction ("predsim", Nøkland & Eidnes 2019; App. B.2).

    The local loss is 0.99 times the mean squared error between the batch's similarity matrix of a 3x3 convolution's
    output (per-channel spatial standard deviations) and that of the one-hot labels, plus 0.01 times the cross-entropy
    of a linear decoder on the average-pooled block output (2048 inputs). Its logits are the decoder's.

    The convolution keeps all channels at stride 1, as in the paper, and so costs half as much as an 8-block network's
    block or more, and as much as a 16-block one's or more: App. A.2's 10 % of a block's FLOPs are of the other
    auxiliaries. Without ``full_conv`` it has stride 2 and 3/8 (8 blocks) or 1/8 (16, other networks) of the channels,
    and stays below.

    Args:
        channels: channels of the block's output.
        num_classes: number of classes.
        blocks: number of blocks of the paper's network; None for other ones.
        width: accepted for uniformity, unused (``channels`` carries it).
        hidden: output channels of the convolution; None takes as many as said above.
        full_conv: stride 1 and, unless ``hidden`` says otherwise, as many output as input channels.
    """

    similarity_weight = 0.99
    decoder_inputs = 2048

    def __init__(
        self,
        channels: int,
        num_classes: int,
        blocks: int | None = None,
        width: float = 1.0,
        hidden: int | None = None,
        full_conv: bool = True,
    ) -> None:
        super().__init__()
        default = channels if full_conv else channels * 3 // 8 if (blocks or 16) <= 8 else channels // 8
        self.conv = nn.Conv2d(
            channels, hidden or max(2, default), 3, stride=1 if full_conv else 2, padding=1, bias=False
        )
        doublings = max(0, math.floor(math.log2(self.decoder_inputs / channels)))
        pooled = (2 ** (doublings // 2), 2 ** (doublings - doublings // 2))
        self.decoder = nn.Sequential(
            nn.AdaptiveAvgPool2d(pooled), nn.Flatten(), nn.Linear(channels * pooled[0] * pooled[1], num_classes)
        )
        self.cross_entropy = CrossEntropyLoss()

    def forward(self, output: Tensor) -> Tensor:
        """Logits ``(batch, classes)`` of the decoder."""
        return self.decoder(as_maps(output))

    def loss(self, output: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """The predsim loss.

        Args:
            output: h_j, ``(batch, channels, height, width)``.
            labels: class indices, ``(batch,)``.

        Returns:
            The loss, a scalar, and the decoder's logits, ``(batch, classes)``.
        """
        logits = self(output)
        prediction = self.cross_entropy(logits, labels)
        maps = self.conv(as_maps(output)).flatten(2)
        # A map of one position has no spatial deviation; its value takes that place, as in the original.
        features = maps.std(dim=2) if maps.shape[2] > 1 else maps.squeeze(2)
        one_hot = F.one_hot(labels, logits.shape[1]).to(features.dtype)
        matching = F.mse_loss(_similarity(features), _similarity(one_hot))
        return torch.lerp(prediction, matching, self.similarity_weight), logits

    def divisor(self, labels: Tensor) -> int:
        """The number of samples, see ``fglight.models.losses``; each process matches the similarities of its own."""
        return len(labels)
