"""Write a run's network as plain torch has it: ``fglight export outputs/A resnet.pt``."""

import sys
from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from fglight.errors import ConfigError, FglightError, one_line

FILES = (".pt", ".pth", ".safetensors")


def main(arguments: Sequence[str]) -> int:
    """Write the state of the module that a run's network was cut from; returns the exit status."""
    options = _parser().parse_args(arguments)
    try:
        print(export(options.folder, options.out))
    except FglightError as error:
        print(f"error: {options.folder}: {one_line(error)}", file=sys.stderr)
        return 1
    return 0


def _parser() -> ArgumentParser:
    parser = ArgumentParser(
        "fglight export",
        description="Write the trained weights of a run's network under the names of the module that it was cut from.",
        epilog="Networks of model=timm, transformers, torchvision and any are cut from a module.",
    )
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="a run's folder, with checkpoints/last.ckpt")
    parser.add_argument(
        "out", type=Path, metavar="OUT", help=f"a file ({', '.join(FILES)}), or a folder for module.save_pretrained"
    )
    return parser


def export(folder: Path, out: Path) -> str:
    """Write a run's network at its last checkpoint.

    Args:
        folder: the run's directory.
        out: a file of ``FILES``, for the module's state; or a folder, for what its ``save_pretrained`` writes.

    Returns:
        What was written, in a line.

    Raises:
        ConfigError: it is no run, its network is that of no module, or ``out`` cannot be written.
    """
    import torch  # takes seconds

    from fglight.training.weights import TrainedRun, merge_adapters

    run = TrainedRun.read(folder)
    network, name = run.network(), run.cfg.model.name
    if network.module is None:
        raise ConfigError(f"its network must be cut from a module, as that of model=timm is, got model={name}")
    module = merge_adapters(network)
    if out.suffix not in FILES and not hasattr(module, "save_pretrained"):
        raise ConfigError(f"OUT must end in {', '.join(FILES)} for a {type(module).__name__}, got {out}")
    try:
        if out.suffix == ".safetensors":
            from safetensors.torch import save_model

            save_model(module, str(out))
        elif out.suffix in FILES:
            torch.save(module.state_dict(), out)
        else:
            out.mkdir(parents=True, exist_ok=True)  # transformers would take a file for success
            cast(Any, module).save_pretrained(out)
    except ImportError as error:
        raise ConfigError(f"{out.suffix} needs safetensors: pip install safetensors") from error
    except Exception as error:  # each library has its own
        raise ConfigError(f"{out} cannot be written ({one_line(error)})") from error
    so_far = "" if run.finished else f" of {run.cfg.trainer.max_epochs}, unfinished"
    return f"{out}: {type(module).__name__} of {folder} at epoch {run.epochs}{so_far}"
