"""How every network starts: Kaiming-uniform weights, small constant biases."""

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


def reset_parameters(network: nn.Module) -> None:
    """Draw the parameters of ``network`` afresh, in place, from torch's default generator.

    Convolution and linear weights are Kaiming-uniform (fan-in, bound ``sqrt(6 / fan_in)``), their biases 0.01; batch
    norm scales are 1 and shifts 0. Other modules keep their parameters, and running statistics are left alone.

    Args:
        network: the module whose parameters are redrawn, with all its submodules.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_uniform_(module.weight, a=0)
            if module.bias is not None:
                nn.init.constant_(module.bias, 0.01)
        elif isinstance(module, _BatchNorm) and module.affine:
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)
