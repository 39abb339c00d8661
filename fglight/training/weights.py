"""The weights that a run leaves, for another run, an evaluation or the world outside."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from lightning.pytorch.utilities.seed import isolate_rng
from omegaconf import DictConfig
from torch import Tensor, nn

from fglight.build import build_model
from fglight.errors import ConfigError
from fglight.models import BlockNetwork
from fglight.runs.folder import CHECKPOINT, CONFIG, read_config, read_result
from fglight.training.checkpoint import read_checkpoint


@dataclass(frozen=True)
class TrainedRun:
    """A run's directory, as what it has trained so far.

    Attributes:
        folder: the directory.
        cfg: its configuration.
        checkpoint: its last one, or another that was asked for.
    """

    folder: Path
    cfg: DictConfig
    checkpoint: Mapping[str, Any]

    @classmethod
    def read(cls, path: Path) -> "TrainedRun":
        """Read a directory, or a checkpoint in one.

        Raises:
            ConfigError: it is none of a run, or has no checkpoint, or one without weights.
        """
        folder = path.parent.parent if path.is_file() else path
        if not (folder / CONFIG).is_file():
            raise ConfigError(f"it must be the folder of a run, with {CONFIG} and {CHECKPOINT}")
        cfg = read_config(folder)
        if cfg.get("checkpoint") == "seeds":
            raise ConfigError("its checkpoint must have weights, and checkpoint=seeds keeps none")
        return cls(folder, cfg, read_checkpoint(path))

    def network(self) -> BlockNetwork:
        """The network with the checkpoint's weights, and of their dtype; no generator moves.

        Raises:
            ConfigError: they are those of another network.
        """
        cfg = self.cfg.copy()
        if cfg.model._target_.startswith("fglight.") and "pretrained" in cfg.model:
            cfg.model.pretrained = False  # for nothing need be downloaded to be replaced
        with isolate_rng():
            network = build_model(cfg)
        state = {name.removeprefix("model."): value for name, value in self.checkpoint["state_dict"].items()}
        there = {name: value for name, value in state.items() if re.match(r"blocks\.\d+\..*\.", name)}  # not a guess's
        network.to(next(value.dtype for value in there.values() if value.is_floating_point()))
        if misfit := _misfit(network.state_dict(), there):
            raise ConfigError(f"the checkpoint does not fit {CONFIG}: {misfit}")
        network.load_state_dict(there)
        return network

    @property
    def epochs(self) -> int:
        """How many epochs the checkpoint has behind it, the last of them perhaps in part."""
        return self.checkpoint["epoch"] + 1 if self.checkpoint["global_step"] else 0

    @property
    def finished(self) -> bool:
        """Whether the checkpoint is of the end of training."""
        result = read_result(self.folder)
        return result is not None and result["steps"] == self.checkpoint["global_step"]


def begin_with(network: BlockNetwork, path: Path, classes: int) -> list[str]:
    """Give a network the weights of a run's, which may be cut into other blocks where a module was cut.

    The classifier's tensors stay as they are where those there are of another number of classes, and the auxiliary
    networks of blocks that are others there, or have others.

    Args:
        network: the network; it is changed only if all fits.
        path: the run's directory, or a checkpoint in it.
        classes: how many the network has.

    Returns:
        The names of tensors, and of auxiliary networks, that stay as they are.

    Raises:
        ConfigError: there is no such run; or naming the first tensor that does not fit, and both shapes.
    """
    trained = TrainedRun.read(path).network()
    merge_adapters(trained)
    pairs, kept = list[tuple[Tensor, Tensor]](), list[str]()
    for j, block in enumerate(network.blocks[:-1]):
        here = _state(block)
        there = _state(trained.blocks[j]) if j < len(trained.blocks) - 1 else {}
        if _misfit(here, there):
            kept.append(f"blocks.{j}.aux")
        else:
            pairs += [(here[name], there[name]) for name in here if name.startswith("aux.")]
    here, there = _without_auxiliaries(network), _without_auxiliaries(trained)
    for name in [*here]:
        shape, other = here[name].shape, there.get(name, here[name]).shape
        if shape != other and shape[:1] == (classes,) and shape[1:] == other[1:]:
            kept.append(name)
            del here[name], there[name]
    if misfit := _misfit(here, there):
        raise ConfigError(misfit)
    pairs += [(here[name], there[name]) for name in here]
    with torch.no_grad():
        for ours, theirs in pairs:
            ours.copy_(theirs)
    return kept


def merge_adapters(network: BlockNetwork) -> nn.Module:
    """Put what ``trained=lora`` has added to the weights into them, and have the plain layers again.

    Returns:
        The module that was cut into the blocks, or else the network.
    """
    module = network.module or network
    for name, layer in [*module.named_modules()]:
        if hasattr(layer, "get_base_layer"):
            adapter = cast(Any, layer)
            adapter.merge()
            module.set_submodule(name, adapter.get_base_layer())
    return module


def _without_auxiliaries(network: BlockNetwork) -> dict[str, Tensor]:
    """The tensors of the network itself, under the names of its module."""
    if network.module is not None:
        return _state(network.module)
    last = f"blocks.{len(network.blocks) - 1}.aux."
    state = _state(network)
    return {name: state[name] for name in state if name.split(".")[2:3] == ["body"] or name.startswith(last)}


def _state(module: nn.Module) -> dict[str, Tensor]:
    """The tensors of a module, without adapters."""
    state = module.state_dict().items()
    return {name.replace(".base_layer.", "."): value for name, value in state if ".lora_" not in name}


def _misfit(here: Mapping[str, Tensor], there: Mapping[str, Tensor]) -> str:
    """The first tensor that only one of two states has, or that has another shape; empty where there is none."""
    for name in [*here, *there]:
        shapes = [str(tuple(state[name].shape)) if name in state else "missing" for state in (here, there)]
        if shapes[0] != shapes[1]:
            return f"{name} is {shapes[0]} in the network, and {shapes[1]} in the checkpoint"
    return ""
