"""Any classifier of torchvision's, cut into blocks between its layers."""

from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torchvision import models

from fglight.errors import one_line
from fglight.models.blocks import BlockNetwork
from fglight.models.chain import chain
from fglight.models.cutting import cut, prepare

COLOURS = 3
"""Channels of the images that torchvision's networks take."""


class Colours(nn.Module):
    """A grey image in three colours."""

    def forward(self, images: Tensor) -> Tensor:
        """``(batch, 1, height, width)`` to ``(batch, 3, height, width)``."""
        return images.expand(-1, COLOURS, -1, -1)


def cut_network(
    auxiliary: Callable[[int], nn.Module],
    num_classes: int,
    example: Tensor,
    network: str,
    cuts: Sequence[int | str] | None = None,
    weights: str | None = None,
    dropout: bool = False,
    arguments: Mapping[str, Any] | None = None,
) -> BlockNetwork:
    """Build a network of torchvision's, and cut it into blocks.

    It starts as torchvision has it, its auxiliary networks as those of the paper's networks do. Activations that change
    their input in place do not, since a block must not.

    Args:
        auxiliary: builds the auxiliary network of a block from the channels of its output.
        num_classes: number of classes.
        example: some images; grey ones become three colours alike.
        network: name of a classifier, as ``torchvision.models.list_models(torchvision.models)`` lists them.
        cuts: the layers with which blocks 1, 2, ... begin, by their places or names in ``chain(network)``; also by the
            name of what begins with them, such as a stage. None: four blocks of about as many layers.
        weights: the name of trained weights, which are downloaded, as ``DEFAULT``; the classifier starts anew unless it
            has as many classes. None starts all anew.
        dropout: whether dropout and stochastic depth are as torchvision has them, else 0.
        arguments: of torchvision's function for the network, such as ``width_mult``.

    Raises:
        ValueError: naming the setting that is not possible, what it must be and its value.
    """
    if example.shape[1] not in (1, COLOURS):
        raise ValueError(f"data.in_channels must be 1 or 3 with model.network={network}, got {example.shape[1]}")
    built = _built(network, num_classes, weights, dict(arguments or {}))
    prepare(built, dropout=dropout)
    try:
        layers = chain(built)
    except Exception as error:  # whatever its computation does
        raise ValueError(f"model.network must be a chain of layers, got {network} ({one_line(error)})") from error
    places = min(4, len(layers) - 1) if cuts is None else _places(cuts, list(layers))
    blocks = cut(layers.values(), places, Colours()(example), auxiliary, f"model.network={network}")
    if example.shape[1] != COLOURS:
        blocks.blocks[0].body = nn.Sequential(Colours(), blocks.blocks[0].body)
    blocks.held = (built,)
    return blocks


def _built(network: str, num_classes: int, weights: str | None, arguments: Mapping[str, Any]) -> nn.Module:
    """The network, with trained weights or freshly initialised."""
    there = models.list_models(models)
    if network not in there:
        near = get_close_matches(str(network), there, n=9, cutoff=0.5) or there
        raise ValueError(f"model.network must be one of torchvision's, as {', '.join(near)}, got {network}")
    weightings = models.get_model_weights(network)
    if weights is not None and weights not in weightings.__members__:
        raise ValueError(f"model.weights must be null, {', '.join(weightings.__members__)}, got {weights}")
    given = {"num_classes": num_classes} if weights is None else {"weights": weights}
    try:
        with torch.device("cpu"):  # some look at their weights while they are initialised
            built = models.get_model(network, **given, **arguments)
            if weights is not None:
                _classify(built, num_classes)
    except OSError as error:
        raise ValueError(
            f"model.weights={weights} cannot be downloaded ({one_line(error)}): leave it null, or put "
            f"{weightings[str(weights)].url} into {torch.hub.get_dir()}/checkpoints"
        ) from error
    except (TypeError, ValueError, RuntimeError) as error:
        said = f"model.weights={weights} " if weights is not None else ""
        raise ValueError(f"{said}model.arguments={arguments} is not possible: {one_line(error)}") from error
    return built


def _classify(network: nn.Module, num_classes: int) -> None:
    """Give a network a new last layer, unless it has as many classes."""
    name, last = next(
        (name, module)
        for name, module in reversed([*network.named_modules()])
        if isinstance(module, nn.Linear | nn.Conv2d)
    )
    if isinstance(last, nn.Linear) and last.out_features != num_classes:
        network.set_submodule(name, nn.Linear(last.in_features, num_classes))
    elif isinstance(last, nn.Conv2d) and last.out_channels != num_classes:
        network.set_submodule(name, nn.Conv2d(last.in_channels, num_classes, 1))


def _places(cuts: Sequence[int | str], names: Sequence[str]) -> list[int]:
    """The places of the layers with which blocks 1, 2, ... begin."""
    last = len(names) - 2  # the head is a layer, too, and the last block has another one
    listed = not isinstance(cuts, str) and isinstance(cuts, Sequence)
    places = [_place(cut, names) for cut in cuts] if listed else [0]
    if any(low >= high for low, high in pairwise([0, *places, last + 1])):
        raise ValueError(
            f"model.cuts must be null or a list, in order, of places from 1 to {last} or names, from {names[1]} to "
            f"{names[last]}, among the layers {', '.join(names)}, got {cuts}"
        )
    return places


def _place(cut: int | str, names: Sequence[str]) -> int:
    """A layer's place; 0, where none can be cut, for one that does not exist."""
    if isinstance(cut, str):
        return next((i for i, name in enumerate(names) if f"{name}.".startswith(f"{cut}.")), 0)
    return cut if type(cut) is int else 0
