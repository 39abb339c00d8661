"""What a run would do, told before it: ``check=true`` and ``verify=true``."""

import torch
from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table

from fglight.build import build_data, build_estimator, build_model, examples
from fglight.text import counted
from fglight.training.quiet import quieten

SAMPLES = 5
"""Samples that are looked at: few, and no other dimension of the networks that ship has as many."""


def show_check(cfg: DictConfig) -> bool:
    """Print what a step does with each layer, on random samples; nothing is trained.

    Returns:
        Whether nothing is refused.
    """
    torch.manual_seed(cfg.seed)
    found = build_estimator(cfg).check(build_model(cfg), examples(cfg, SAMPLES))
    table = Table("block", "layer", "class", "path", "why, and at what cost")
    for layer in found:
        block = "" if layer.block is None else str(layer.block)
        table.add_row(block, layer.layer or "(all of it)", layer.kind, layer.path, layer.why)
    console = Console()
    console.print(table)
    counts = ", ".join(f"{sum(layer.path == path for layer in found)} {path}" for path in ("fast", "slow", "refused"))
    console.print(f"{counted(len(found), 'layer')}: {counts}. Nothing was trained.")
    return not any(layer.path == "refused" for layer in found)


def show_verification(cfg: DictConfig) -> bool:
    """Print how far a step is from its definition, engine by engine, on a few samples; nothing is trained.

    Returns:
        Whether nothing differs.
    """
    quieten()
    torch.manual_seed(cfg.seed)
    data = build_data(cfg)
    data.prepare_data()
    data.setup("fit")
    model = build_model(cfg)
    samples, labels = (given[:SAMPLES] for given in next(iter(data.train_dataloader())))
    found = build_estimator(cfg).verify(model, samples, labels)
    print(found)
    count = counted(len(samples), "sample")
    print(f"{count} in double precision, each engine beside plain autograd. Nothing was trained.")
    return found.agrees
