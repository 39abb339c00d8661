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
from fglight.models.resnet import BlockwiseResNet
from fglight.models.several import SeveralAuxiliaries, several_auxiliaries

__all__ = [
    "Block",
    "BlockNetwork",
    "BlockwiseResNet",
    "CNNAuxiliary",
    "Head",
    "LinearAuxiliary",
    "MLPAuxiliary",
    "PooledAuxiliary",
    "PredSimAuxiliary",
    "SeveralAuxiliaries",
    "reset_parameters",
    "several_auxiliaries",
    "split",
]
