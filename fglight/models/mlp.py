"""A multilayer perceptron, a layer a block."""

from collections.abc import Callable, Sequence

from torch import nn

from fglight.models.blocks import Block, BlockNetwork
from fglight.models.initialization import reset_parameters
from fglight.models.sizes import check_lists_of_positive_ints


class BlockwiseMLP(BlockNetwork):
    """Linear layers with ReLU on the images' pixels, each a block, and a linear classifier.

    Args:
        auxiliary: builds the auxiliary network of a block from the number of its units.
        num_classes: number of classes.
        in_channels: channels of the images.
        image_size: height and width of the images.
        hidden: units of each layer.

    Raises:
        ValueError: ``hidden`` is no list of numbers from 1 on.
    """

    def __init__(
        self,
        auxiliary: Callable[[int], nn.Module],
        num_classes: int,
        in_channels: int,
        image_size: int,
        hidden: Sequence[int],
    ) -> None:
        check_lists_of_positive_ints(hidden=hidden)
        inputs = [in_channels * image_size**2, *hidden]
        bodies = [nn.Sequential(nn.Linear(*pair), nn.ReLU()) for pair in zip(inputs, hidden)]
        bodies[0].insert(0, nn.Flatten())
        heads = [*map(auxiliary, hidden[:-1]), nn.Linear(hidden[-1], num_classes)]
        super().__init__(map(Block, bodies, heads))
        reset_parameters(self)
