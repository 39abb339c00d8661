"""What can be known of a kind of layers: derivatives in closed form. An unknown kind is the slow way, and right."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from torch import Tensor, nn

KINDS: dict[type[nn.Module], "LayerKind"] = {}
"""By the class of a layer. One of your own stands here once it was made; see ``docs/layers.md``."""


class LayerKind(ABC):
    """The closed forms of some classes of layers, whose parameters are a weight and a bias or one of them.

    All are linear in each of these. They hold for the ``forward`` that the classes have when the kind is made, for a
    layer without hooks, whose parameters are its own.

    Args:
        *classes: of the layers; none that comes of one of them.

    Attributes:
        forwards: what each class does.
        on_channels: whether a scale or a shift acts on the channels, dimension 1, and not on the last dimensions.
    """

    on_channels: ClassVar[bool] = True

    def __init__(self, *classes: type[nn.Module]) -> None:
        self.forwards: dict[type[nn.Module], Callable] = {kind: kind.forward for kind in classes}
        KINDS.update(dict.fromkeys(classes, self))

    def has_samples(self, call: Any) -> bool:
        """Whether what the layer took in has as many dimensions as with samples in front."""
        return True

    @abstractmethod
    def gradients(self, call: Any, name: str, cotangents: Sequence[Tensor]) -> list[Tensor]:
        """Every sample's gradient of one parameter, for each of several cotangents.

        Args:
            call: the use of the layer, a ``LayerCall``.
            name: of the parameter, ``weight`` or ``bias``.
            cotangents: of the layer's output, each in its shape.

        Returns:
            For each cotangent ``(batch, *parameter.shape)``; its sum over the batch is the gradient.
        """

    @abstractmethod
    def outputs(self, call: Any, name: str, values: Tensor) -> Tensor:
        """What the layer would give out at each sample with that sample's own value of one parameter, the other zero.

        It is linear in the parameter, and so this is also its Jacobian-vector product in the direction ``values``.

        Args:
            call: the use of the layer, cut down to as many samples.
            name: of the parameter, ``weight`` or ``bias``.
            values: ``(batch, *parameter.shape)``.

        Returns:
            ``(batch, ...)``, an output of the layer.
        """

    def spread(self, call: Any, values: Tensor) -> Tensor:
        """Each sample's scale or shift ``(batch, *parameter.shape)`` laid out like the layer's output."""
        shape = (len(values), *call.shape[1:])
        behind = len(shape) - 2 if self.on_channels else 0
        before = len(shape) - values.dim() - behind
        return values.reshape(len(values), *[1] * before, *values.shape[1:], *[1] * behind).expand(shape)
