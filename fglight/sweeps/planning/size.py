"""How large networks are, from their shapes alone."""

import torch
from omegaconf import DictConfig
from torch.utils.flop_counter import FlopCounterMode

from fglight.build import build_model


def parameter_count(cfg: DictConfig) -> int:
    """How many parameters a configuration's network has, auxiliary networks included."""
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in build_model(cfg).parameters())


def aux_share(cfg: DictConfig) -> float:
    """The largest share, over blocks, of an auxiliary network's FLOPs in its block's, in a forward pass."""
    with torch.device("meta"):
        model = build_model(cfg)
        hidden = torch.empty(2, cfg.data.in_channels, cfg.data.image_size, cfg.data.image_size)
    shares = []
    for block in model.blocks[:-1]:
        with FlopCounterMode(display=False) as body:
            hidden = block.body(hidden)
        with FlopCounterMode(display=False) as aux:
            block.aux(hidden)
        shares.append(aux.get_total_flops() / body.get_total_flops())
    return max(shares)
