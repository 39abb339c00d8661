"""Any network of timm's, cut into blocks where some of its submodules begin."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fglight.errors import one_line
from fglight.models.auxiliaries import channels_of
from fglight.models.blocks import BlockNetwork, split
from fglight.models.initialization import reset_parameters


def timm_network(
    auxiliary: Callable[[int], nn.Module],
    num_classes: int,
    in_channels: int,
    image_size: int,
    network: str,
    pretrained: bool = False,
    blocks: int = 4,
    cuts: Sequence[str] | None = None,
    arguments: Mapping[str, Any] | None = None,
    adapt: Callable[[nn.Module], None] | None = None,
) -> BlockNetwork:
    """Build a network of timm's, and cut it into blocks.

    It starts as timm has it, with trained weights or without; its auxiliary networks as those of the paper's networks.

    Args:
        auxiliary: builds the auxiliary network of a block from the channels of its output.
        num_classes: number of classes.
        in_channels: channels of the images, for which timm adapts trained weights.
        image_size: height and width of the images.
        network: its name, as ``timm.list_models()`` has it.
        pretrained: whether its weights are trained ones, which are downloaded.
        blocks: how many blocks of about as many layers, where ``cuts`` names none.
        cuts: the submodules with which blocks 1, 2, ... begin.
        arguments: of ``timm.create_model``, such as ``drop_path_rate``.
        adapt: chooses what of the network is trained, before it is cut.

    Raises:
        ValueError: naming the setting that is not possible, what it must be and its value.
    """
    try:
        import timm  # an extra
    except ImportError as error:
        raise ValueError("model=timm needs timm: pip install 'fglight[timm]'") from error

    with torch.device("cpu"):  # some look at their weights, and a cut looks at what is given
        given = {"num_classes": num_classes, "in_chans": in_channels, **(arguments or {})}
        try:
            try:
                built = timm.create_model(network, pretrained=pretrained, **{"img_size": image_size, **given})
            except TypeError:  # a network of images of any size
                built = timm.create_model(network, pretrained=pretrained, **given)
        except (RuntimeError, TypeError, ValueError, OSError) as error:
            raise ValueError(
                f"model.network={network} is not possible with model.arguments={dict(arguments or {})}: "
                f"{one_line(error)}"
            ) from error
        for module in built.modules():
            if getattr(module, "inplace", False):
                module.inplace = False

        if adapt is not None:
            adapt(built)

        def auxiliary_of(output: Tensor, classes: int) -> nn.Module:
            return auxiliary(channels_of(output))

        example = torch.zeros(2, in_channels, image_size, image_size)
        try:
            cut = split(built, blocks if cuts is None else list(cuts), example, auxiliary_of)
        except (RuntimeError, AssertionError) as error:
            raise ValueError(
                f"data.image_size={image_size} is not possible with {network}: {one_line(error)}"
            ) from error
        for block in cut.blocks[:-1]:
            reset_parameters(block.aux)
    return cut.to(torch.get_default_device())
