"""Which of a network's parameters are trained: all of them, or few beside the head."""

import re
from collections.abc import Mapping
from typing import Any
from warnings import catch_warnings, filterwarnings

from torch import nn

from fglight.models.blocks import BlockNetwork

TRAINED = ("all", "head", "bias", "norm", "lora")
"""What can be trained, beside the auxiliary networks, which always are."""


def choose_trained(network: nn.Module, trained: str, rank: int = 8, alpha: int = 16) -> None:
    """Have all other parameters of a network stay as they are.

    Args:
        network: a network in blocks, or a module before it is cut into some.
        trained: ``all``; or the ``head`` alone, or besides it every ``bias`` (BitFit, Ben Zaken et al. 2022, arXiv
            2106.10199), the scales and shifts of every ``norm``, or ``lora``: for each linear layer, and convolution of
            one group, a product of two small matrices that is added to its weight (Hu et al. 2021, arXiv 2106.09685).
        rank: of these products.
        alpha: they are added alpha/rank times.

    Raises:
        ValueError: nothing but the head would be trained, or peft is not installed.
    """
    if trained == "all":
        return
    head = _head(network)
    inside = {module for part in [*head, *_auxiliaries(network)] for module in part.modules()}
    layers = {name: layer for name, layer in network.named_modules() if layer not in inside}
    found = _found(layers, trained)
    if not found and trained != "head":
        kinds = {"bias": "a bias", "norm": "a normalisation layer", "lora": "a linear layer or convolution"}
        raise ValueError(
            f"trained={trained} needs {kinds[trained]} below the head, and {type(network).__name__} has none"
        )
    if trained == "lora":
        _inject(network, found, rank, alpha)
    network.requires_grad_(False)
    for part in [*head, *_auxiliaries(network)]:
        part.requires_grad_()
    for name, parameter in network.named_parameters():
        if name in found or (trained == "lora" and ".lora_" in name):
            parameter.requires_grad_()


def _found(layers: Mapping[str, nn.Module], trained: str) -> set[str]:
    """The names of the parameters of layers that are trained; with ``lora``, of the layers that get one."""
    if trained == "lora":
        return {name for name, layer in layers.items() if _takes_lora(layer)}
    parameters = (
        (name, own, layer) for name, layer in layers.items() for own, _ in layer.named_parameters(recurse=False)
    )
    return {
        f"{name}.{own}" if name else own
        for name, own, layer in parameters
        if (trained == "bias" and own.endswith("bias")) or (trained == "norm" and _is_norm(layer))
    }


def _head(network: nn.Module) -> list[nn.Module]:
    """The last layers, which give the outputs: by the network's own word, or the last of all."""
    own: Any = network
    if isinstance(network, BlockNetwork) and any(True for _ in network.blocks[-1].aux.parameters()):
        return [network.blocks[-1].aux]
    if hasattr(network, "get_classifier"):  # timm's
        return [own.get_classifier()]
    if isinstance(getattr(network, "base_model", None), nn.Module) and own.base_model is not network:  # transformers'
        return [child for child in network.children() if child is not own.base_model]
    layers: list[nn.Module] = [layer for layer in network.modules() if isinstance(layer, nn.Linear | nn.Conv2d)]
    return layers[-1:]


def _auxiliaries(network: nn.Module) -> list[nn.Module]:
    return [block.aux for block in network.blocks[:-1]] if isinstance(network, BlockNetwork) else []


def _is_norm(layer: nn.Module) -> bool:
    return any("Norm" in kind.__name__ for kind in type(layer).__mro__)


def _takes_lora(layer: nn.Module) -> bool:
    kinds = {kind.__name__ for kind in type(layer).__mro__}  # transformers' Conv1D is a linear layer
    return bool(kinds & {"Linear", "Conv1D"}) or ("Conv2d" in kinds and getattr(layer, "groups", 0) == 1)


def _inject(network: nn.Module, names: set[str], rank: int, alpha: int) -> None:
    try:
        from peft import LoraConfig, inject_adapter_in_model  # an extra
    except ImportError as error:
        raise ValueError("trained=lora needs peft: pip install 'fglight[transformers]'") from error

    chosen = "|".join(re.escape(name) for name in sorted(names))
    with catch_warnings():
        filterwarnings("ignore", "fan_in_fan_out is set to False")  # it finds transformers' Conv1D out by itself
        inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=alpha, target_modules=chosen), network)
