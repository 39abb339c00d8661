"""Networks as sequences of blocks, and the auxiliary networks that give each block a local loss."""

from fglight.models.auxiliaries import (
    CNNAuxiliary,
    Head,
    LinearAuxiliary,
    MLPAuxiliary,
    PooledAuxiliary,
    PredSimAuxiliary,
    as_maps,
    channels_of,
)
from fglight.models.blocks import Block, BlockNetwork, split
from fglight.models.exact import exact_blocks
from fglight.models.initialization import reset_parameters
from fglight.models.losses import BCEWithLogitsLoss, CrossEntropyLoss, ErrorRate, Loss, MSELoss
from fglight.models.mlp import BlockwiseMLP
from fglight.models.resnet import BlockwiseResNet
from fglight.models.several import SeveralAuxiliaries, several_auxiliaries

__all__ = [
    "BCEWithLogitsLoss",
    "Block",
    "BlockNetwork",
    "BlockwiseMLP",
    "BlockwiseResNet",
    "CNNAuxiliary",
    "CrossEntropyLoss",
    "ErrorRate",
    "Head",
    "LinearAuxiliary",
    "Loss",
    "MLPAuxiliary",
    "MSELoss",
    "PooledAuxiliary",
    "PredSimAuxiliary",
    "SeveralAuxiliaries",
    "as_maps",
    "channels_of",
    "exact_blocks",
    "reset_parameters",
    "several_auxiliaries",
    "split",
]
