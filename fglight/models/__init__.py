"""Networks as sequences of blocks, and the auxiliary networks that give each block a local loss."""

from fglight.models.auxiliaries import (
    CNNAuxiliary,
    Head,
    LinearAuxiliary,
    MLPAuxiliary,
    PooledAuxiliary,
    PredSimAuxiliary,
)
from fglight.models.blocks import Block, BlockNetwork, split
from fglight.models.initialization import reset_parameters
from fglight.models.resnet import ResNet18

__all__ = [
    "Block",
    "BlockNetwork",
    "CNNAuxiliary",
    "Head",
    "LinearAuxiliary",
    "MLPAuxiliary",
    "PooledAuxiliary",
    "PredSimAuxiliary",
    "ResNet18",
    "reset_parameters",
    "split",
]
