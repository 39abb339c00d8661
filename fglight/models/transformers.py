"""Any classifier of texts of transformers', cut into blocks where some of its submodules begin."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from fglight.errors import one_line
from fglight.hub import from_pretrained, quiet
from fglight.models.blocks import BlockNetwork
from fglight.models.cutting import cut, ids_and_mask, prepare


def transformers_network(
    auxiliary: Callable[[int], nn.Module],
    num_classes: int,
    example: Tensor,
    path: str,
    pretrained: bool = True,
    blocks: int = 4,
    cuts: Sequence[str] | None = None,
    dropout: bool = False,
    arguments: Mapping[str, Any] | None = None,
    adapt: Callable[[nn.Module], None] | None = None,
) -> BlockNetwork:
    """Load a network of transformers' for ``AutoModelForSequenceClassification``, and cut it into blocks.

    Its classifier starts anew unless it has as many classes. A model without a token for padding gets the one that ends
    a text, or else the first, and no other token of the same kind is needed: what is padding, the mask says.

    Args:
        auxiliary: builds the auxiliary network of a block from the channels of its output.
        num_classes: number of classes.
        example: token ids and attention mask of some texts, ``(batch, 2, length)``.
        path: a folder, or a name on the Hugging Face hub, which is downloaded.
        pretrained: whether its weights are those that lie there; else they are drawn as its configuration says.
        blocks: how many blocks of about as many layers, where ``cuts`` names none.
        cuts: the submodules with which blocks 1, 2, ... begin.
        dropout: whether dropout is as the configuration has it, else 0.
        arguments: of the configuration, such as ``hidden_dropout_prob``.
        adapt: chooses what of the network is trained, before it is cut.

    Raises:
        ValueError: naming the setting that is not possible, what it must be and its value.
    """
    if example.is_floating_point():
        raise ValueError("model=transformers takes token ids, which data=text gives: choose it, or another model")
    config = from_pretrained("model.path", path, "AutoConfig")
    given, said = dict(arguments or {}), f"model.path={path}"
    for name in given:
        if not hasattr(config, name):
            raise ValueError(f"model.arguments.{name} is no setting of a {type(config).__name__}, that of {said}")
    off = {name: 0.0 for name, value in config.to_dict().items() if "drop" in name and isinstance(value, float)}
    try:
        for name, value in {**({} if dropout else off), "num_labels": num_classes, **given}.items():
            setattr(config, name, value)
    except Exception as error:  # whatever a configuration checks
        raise ValueError(f"model.arguments={given} is not possible with {said}: {one_line(error)}") from error
    if getattr(config, "pad_token_id", None) is None:
        ends = getattr(config, "eos_token_id", None)
        config.pad_token_id = ends if isinstance(ends, int) and ends < config.vocab_size else 0
    with torch.device("cpu"):
        network = _built(path, config, pretrained, given)
    prepare(network, adapt=adapt)
    starts = blocks if cuts is None else list(cuts)
    inputs = partial(ids_and_mask, padding=config.pad_token_id)
    return cut(network, starts, example, auxiliary, said, inputs)


def _built(path: str, config: Any, pretrained: bool, given: Mapping[str, Any]) -> nn.Module:
    """The network, with trained weights or freshly initialised."""
    kind, dtype = "AutoModelForSequenceClassification", torch.get_default_dtype()
    if not pretrained:
        import transformers

        try:
            with quiet():
                return getattr(transformers, kind).from_config(config, dtype=dtype)
        except Exception as error:  # whatever its code does with settings
            raise ValueError(
                f"model.path={path} is not possible with model.arguments={dict(given)}: {one_line(error)}"
            ) from error
    anew = {"ignore_mismatched_sizes": True, "output_loading_info": True}  # for the classifier, and nothing else
    network, info = from_pretrained("model.path", path, kind, config=config, dtype=dtype, **anew)
    others = [name for name, _, shape in info["mismatched_keys"] if shape[0] != config.num_labels]
    if others:
        raise ValueError(
            f"model.arguments={dict(given)} is not possible with the weights of model.path={path}, whose {others[0]} "
            "has another shape: model.pretrained=false does without"
        )
    return network
