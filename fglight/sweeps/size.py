"""How large networks are, from their shapes alone."""

import torch
from omegaconf import DictConfig
from torch.utils.flop_counter import FlopCounterMode

from fglight.build import build_model, examples


def parameter_count(cfg: DictConfig) -> int:
    """How many parameters a configuration's network has, auxiliary networks included."""
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in build_model(cfg).parameters())


def aux_share(cfg: DictConfig) -> float:
    """The largest share, over blocks, of an auxiliary network's FLOPs in its block's, in a forward pass."""
    return max(aux / body for body, aux in flops(cfg))


def flops(cfg: DictConfig) -> list[tuple[int, int]]:
    """Those of a batch's forward pass through each block and through its local loss, for all blocks but the last."""
    with torch.device("meta"):
        model = build_model(cfg)
        hidden = examples(cfg, cfg.data.batch_size).to(torch.get_default_device())
        labels = torch.zeros(cfg.data.batch_size, dtype=torch.long)
    counted = []
    for block in model.blocks[:-1]:
        with FlopCounterMode(display=False) as body:
            hidden = block.body(hidden)
        with FlopCounterMode(display=False) as aux:
            block.loss(hidden, labels)
        counted.append((body.get_total_flops(), aux.get_total_flops()))
    return counted
