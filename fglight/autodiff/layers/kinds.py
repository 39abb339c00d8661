"""What can be known of a kind of layers: derivatives in closed form. An unknown kind is the slow way, and right."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import torch
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
    """

    def __init__(self, *classes: type[nn.Module]) -> None:
        self.forwards: dict[type[nn.Module], Callable] = {kind: kind.forward for kind in classes}
        KINDS.update(dict.fromkeys(classes, self))

    def holds(self, layer: Any) -> bool:
        """Whether a layer has no option with which its gradient is another one."""
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

    def outputs(self, call: Any, name: str, values: Tensor) -> Tensor:
        """What the layer would give out at each sample with that sample's own value of one parameter, the other zero.

        It is linear in the parameter, and so this is also its Jacobian-vector product in the direction ``values``:
        the transpose of ``gradients``, which are linear in the cotangent.

        Args:
            call: the use of the layer, cut down to as many samples.
            name: of the parameter, ``weight`` or ``bias``.
            values: ``(batch, *parameter.shape)``.

        Returns:
            ``(batch, ...)``, an output of the layer.
        """
        cotangent = values.new_zeros(len(values), *call.shape[1:]).requires_grad_()
        with torch.enable_grad():
            gradients = self.gradients(call, name, [cotangent])
            return torch.autograd.grad(gradients, cotangent, [values])[0]
