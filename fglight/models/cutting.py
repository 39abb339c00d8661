"""What networks of others need so that blocks can be made of them."""

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor, nn
from torchvision.ops import StochasticDepth

from fglight.errors import one_line
from fglight.models.auxiliaries import channels_of
from fglight.models.blocks import BlockNetwork, split
from fglight.models.initialization import reset_parameters
from fglight.models.segments import Inputs


def prepare(network: nn.Module, *, dropout: bool = True, adapt: Callable[[nn.Module], None] | None = None) -> None:
    """Make a network one that can be cut, before it is.

    Activations that change their input in place do not any more, since a block must not.

    Args:
        network: any.
        dropout: whether dropout and stochastic depth stay as they are, else they are off.
        adapt: changes the network as it likes, at last.
    """
    network.train()  # trained ones often come as they are for use
    for module in network.modules():
        if getattr(module, "inplace", False):
            module.inplace = False  # type: ignore[assignment]
        if not dropout and isinstance(module, nn.modules.dropout._DropoutNd | StochasticDepth):
            module.p = 0.0
        elif not dropout and isinstance(module, nn.MultiheadAttention | nn.RNNBase):
            module.dropout = 0.0
    if adapt is not None:
        with torch.device("cpu"):  # where the network is
            adapt(network)


def cut(
    network: nn.Module | Iterable[nn.Module],
    starts: int | Sequence[int] | Sequence[str],
    example: Tensor,
    auxiliary: Callable[[int], nn.Module],
    said: str,
    inputs: Inputs | None = None,
) -> BlockNetwork:
    """Cut a prepared network into blocks, and give each an auxiliary network for the channels that it gives.

    Auxiliary networks start as those of the paper's networks do. All is done on a CPU, since a cut looks at numbers,
    and then moved to the default device.

    Args:
        network: on a CPU; a module, or layers of which the last is the head.
        starts: how many blocks, or where blocks 1, 2, ... begin, see ``split``.
        example: what block 0 takes, on a CPU.
        auxiliary: builds the auxiliary network of a block from the channels of its output.
        said: the setting that chose the network, with its value.
        inputs: see ``split``.

    Raises:
        ValueError: it cannot be cut there, does not take what the example has, or gives maps with channels last.
    """

    def auxiliary_of(output: Tensor, classes: int) -> nn.Module:
        if output.dim() == 4 and output.shape[1] == output.shape[2] != output.shape[3]:
            raise ValueError(
                f"{said} is not possible: blocks must give maps (batch, channels, height, width), or tokens (batch, "
                f"tokens, channels), and one gives {tuple(output.shape)}, with channels last"
            )
        return auxiliary(channels_of(output))

    with torch.device("cpu"):
        try:
            blocks = split(network, starts, example, auxiliary_of, inputs=inputs)
        except ValueError:
            raise
        except Exception as error:  # whatever its code does
            size = "image_size" if example.is_floating_point() else "length"
            raise ValueError(
                f"data.{size}={example.shape[-1]} is not possible with {said}: {one_line(error)}"
            ) from error
        for block in blocks.blocks[:-1]:
            reset_parameters(block.aux)
    return blocks.to(torch.get_default_device())


def ids_and_mask(texts: Tensor, padding: int | None = None) -> dict[str, Tensor]:
    """The arguments of a network of transformers'.

    Args:
        texts: token ids and attention mask, ``(batch, 2, length)``.
        padding: what stands where the mask is 0; None: what is there.
    """
    ids, mask = texts.unbind(1)
    return {"input_ids": ids if padding is None else ids.masked_fill(mask == 0, padding), "attention_mask": mask}
