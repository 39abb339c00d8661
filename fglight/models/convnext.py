"""A ConvNeXt (Liu et al. 2022, arXiv 2201.03545), a block a block."""

from collections.abc import Callable, Sequence

from torch import nn
from torchvision.models.convnext import CNBlock, LayerNorm2d

from fglight.models.blocks import Block, BlockNetwork
from fglight.models.initialization import reset_parameters
from fglight.models.sizes import check_lists_of_positive_ints, check_positive_ints


class BlockwiseConvNeXt(BlockNetwork):
    """A ConvNeXt as a sequence of blocks, each one of torchvision's ``CNBlock``.

    The stem belongs to the first block, and what halves the maps to the first of its stage. Layer scales start at 1,
    since the 1e-6 of networks ten times as deep would take long to grow. There is no stochastic depth.

    Args:
        auxiliary: builds the auxiliary network of a block from the channels of its output.
        num_classes: number of classes.
        in_channels: channels of the images.
        image_size: height and width of the images.
        patch_size: side of the patches that the stem cuts images into.
        channels: of each stage.
        num_layers: of each stage, how many blocks it has.

    Raises:
        ValueError: a size is no whole number from 1 on, there are not as many ``channels`` as ``num_layers``, or the
            images are too small.
    """

    def __init__(
        self,
        auxiliary: Callable[[int], nn.Module],
        num_classes: int,
        in_channels: int,
        image_size: int,
        patch_size: int,
        channels: Sequence[int],
        num_layers: Sequence[int],
    ) -> None:
        check_positive_ints("model", patch_size=patch_size)
        check_lists_of_positive_ints(channels=channels, num_layers=num_layers)
        if len(channels) != len(num_layers):
            raise ValueError(
                f"model.num_layers must be a number for each of model.channels={channels}, got {num_layers}"
            )
        smallest = patch_size * 2 ** (len(channels) - 1)  # the factor by which the network shrinks images
        if image_size < smallest:
            raise ValueError(
                f"data.image_size must be {smallest} or more with model.patch_size={patch_size} and {len(channels)} "
                f"stages, got {image_size}"
            )
        first = [nn.Conv2d(in_channels, channels[0], patch_size, patch_size), _norm(channels[0])]
        bodies: list[nn.Module] = []
        outputs: list[int] = []
        for stage, (output, layers) in enumerate(zip(channels, num_layers)):
            if stage > 0:
                first = [_norm(outputs[-1]), nn.Conv2d(outputs[-1], output, 2, 2)]
            blocks = [CNBlock(output, layer_scale=1.0, stochastic_depth_prob=0.0) for _ in range(layers)]
            bodies += [nn.Sequential(*first, blocks[0]), *map(nn.Sequential, blocks[1:])]
            outputs += [output] * layers
        last = outputs[-1]
        head = nn.Sequential(nn.AdaptiveAvgPool2d(1), _norm(last), nn.Flatten(), nn.Linear(last, num_classes))
        auxiliaries = nn.ModuleList(map(auxiliary, outputs[:-1]))
        reset_parameters(auxiliaries)
        super().__init__(map(Block, bodies, [*auxiliaries, head]))


def _norm(channels: int) -> nn.Module:
    return LayerNorm2d(channels, eps=1e-6)
