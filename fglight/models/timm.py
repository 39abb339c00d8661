"""Any network of timm's, cut into blocks where some of its submodules begin."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fglight.errors import ConfigError, one_line
from fglight.models.blocks import BlockNetwork
from fglight.models.cutting import cut, prepare


def images_of(network: str) -> dict[str, Any]:
    """The images that a network's trained weights of timm's are for.

    Args:
        network: its name, as for ``timm_network``.

    Returns:
        Their ``image_size`` in pixels, and ``mean`` and ``std`` of each channel, in 0..1 units.

    Raises:
        ConfigError: timm is not installed, or has no such network.
    """
    timm = _timm()
    try:
        known = timm.get_pretrained_cfg(network, allow_unregistered=False).to_dict()
    except RuntimeError as error:
        raise ConfigError(f"model.network must be one of timm.list_models(), got {network}") from error
    found = timm.data.resolve_data_config(pretrained_cfg=known)
    return {"image_size": found["input_size"][-1], "mean": list(found["mean"]), "std": list(found["std"])}


def timm_network(
    auxiliary: Callable[[int], nn.Module],
    num_classes: int,
    example: Tensor,
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
        example: some images; timm adapts trained weights to their channels.
        network: its name, as ``timm.list_models()`` has it.
        pretrained: whether its weights are trained ones, which are downloaded.
        blocks: how many blocks of about as many layers, where ``cuts`` names none.
        cuts: the submodules with which blocks 1, 2, ... begin.
        arguments: of ``timm.create_model``, such as ``drop_path_rate``.
        adapt: chooses what of the network is trained, before it is cut.

    Raises:
        ValueError: naming the setting that is not possible, what it must be and its value.
    """
    timm = _timm()
    given = {"num_classes": num_classes, "in_chans": example.shape[1], **(arguments or {})}
    try:
        with torch.device("cpu"):  # some look at their weights
            try:
                built = timm.create_model(network, pretrained=pretrained, **{"img_size": example.shape[-1], **given})
            except TypeError:  # a network of images of any size
                built = timm.create_model(network, pretrained=pretrained, **given)
    except (RuntimeError, TypeError, ValueError, OSError) as error:
        raise ValueError(
            f"model.network={network} is not possible with model.arguments={dict(arguments or {})}: {one_line(error)}"
        ) from error
    prepare(built, adapt=adapt)
    return cut(built, blocks if cuts is None else list(cuts), example, auxiliary, f"model.network={network}")


def _timm() -> Any:
    try:
        import timm  # an extra
    except ImportError as error:
        raise ConfigError("model=timm needs timm: pip install 'fglight[timm]'") from error
    return timm
