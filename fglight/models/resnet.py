"""ResNet-18 cut into 8 blocks, or without skip connections into 16 (Sec. 4.1, App. A.1)."""

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

from fglight.models.auxiliaries import Head
from fglight.models.blocks import Block, BlockNetwork
from fglight.models.initialization import reset_parameters

STAGES = (64, 128, 256, 512)
"""Channels of the four stages at width 1; every stage but the first halves the resolution."""


def _conv_bn_relu(in_channels: int, out_channels: int, stride: int = 1) -> list[nn.Module]:
    return [
        nn.Conv2d(in_channels, out_channels, 3, stride, 1, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(inplace=True),
    ]


def _stem(in_channels: int, out_channels: int, stem: str) -> list[nn.Module]:
    if stem == "cifar":
        return _conv_bn_relu(in_channels, out_channels)
    return [
        nn.Conv2d(in_channels, out_channels, 7, 2, 3, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(3, 2, 1),
    ]


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with a skip connection (He et al. 2016).

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        stride: of the first convolution; the skip is a 1x1 convolution where the shape changes, else the identity.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            *_conv_bn_relu(in_channels, out_channels, stride),
            nn.Conv2d(out_channels, out_channels, 3, 1, 1, bias=False),
            nn.BatchNorm2d(out_channels),
        )
        self.stride = stride
        self.shortcut = nn.Sequential()
        if stride != 1 or in_channels != out_channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, bias=False), nn.BatchNorm2d(out_channels)
            )

    def forward(self, x: Tensor) -> Tensor:
        """``(batch, in_channels, height, width)`` to ``(batch, out_channels, height / stride, width / stride)``."""
        # What a 1x1 convolution of this stride sees. With channels last in memory and less than 8 or 16 of them, oneDNN
        # computes a wrong weight gradient of the strided one, past the end of its memory.
        seen = x[..., :: self.stride, :: self.stride]
        return F.relu(self.residual(x) + self.shortcut(seen), inplace=True)


class BlockwiseResNet(BlockNetwork):
    """ResNet-18 as a sequence of blocks with auxiliary networks, freshly initialised.

    With 8 blocks, block 0 is the stem and the first BasicBlock, and each further BasicBlock is a block. With 16 there
    are no skip connections and a block is one conv-BN-ReLU, block 0 two of them (stem included); with the ImageNet stem
    block 0 is the stem alone, as in the released code.

    Args:
        blocks: 8 or 16.
        auxiliary: builds the auxiliary network of a block from the channels of its output, ``blocks`` and ``width``.
        num_classes: number of classes.
        in_channels: channels of the images.
        width: factor on every channel count, rounded down.
        stem: ``cifar`` (3x3, stride 1) or ``imagenet`` (7x7, stride 2, max-pooling).
        image_size: height and width of the images; None where any may come.
        network: what the blocks are of, ``resnet18``.

    Raises:
        ValueError: if ``blocks``, ``stem`` or ``network`` is none of the above, ``width`` leaves no channel, or the
            images are too small.
    """

    def __init__(
        self,
        blocks: int,
        auxiliary: Callable[..., nn.Module],
        num_classes: int,
        in_channels: int = 3,
        width: float = 1.0,
        stem: str = "cifar",
        image_size: int | None = None,
        network: str = "resnet18",
    ) -> None:
        stages = [int(channels * width) for channels in STAGES]
        if stages[0] < 1:
            raise ValueError(f"model.width={width} leaves no channel: at least 1/{STAGES[0]} is needed")
        if blocks not in (8, 16):
            raise ValueError(f"model.blocks={blocks} is not possible: ResNet-18 is cut into 8 or 16 blocks")
        if stem not in ("cifar", "imagenet"):
            raise ValueError(f"model.stem={stem} does not exist: cifar or imagenet")
        if network != "resnet18":
            raise ValueError(f"model.network must be resnet18, got {network} (model=torchvision has others)")
        smallest = {"imagenet": 32, "cifar": 8}[stem]  # the factor by which the network shrinks images
        if image_size is not None and image_size < smallest:
            raise ValueError(f"data.image_size must be {smallest} or more with model.stem={stem}, got {image_size}")

        per_stage = blocks // len(stages)
        outputs = [channels for channels in stages for _ in range(per_stage)]
        inputs = [outputs[0], *outputs[:-1]]
        bodies: list[nn.Module] = []
        for j in range(blocks):
            stride = 2 if j > 0 and j % per_stage == 0 else 1
            if blocks == 8:
                bodies.append(BasicBlock(inputs[j], outputs[j], stride))
            else:
                bodies.append(nn.Sequential(*_conv_bn_relu(inputs[j], outputs[j], stride)))
        alone = blocks == 16 and stem == "imagenet"
        bodies[0] = nn.Sequential(*_stem(in_channels, outputs[0], stem), *([] if alone else [bodies[0]]))
        size = {"blocks": blocks, "width": width}
        auxiliaries = [*(auxiliary(channels, **size) for channels in outputs[:-1]), Head(outputs[-1], num_classes)]
        super().__init__(Block(body, aux) for body, aux in zip(bodies, auxiliaries))
        reset_parameters(self)
