"""The weights that a run leaves, for another run, an evaluation or the world outside."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
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
        path: of the directory, or of a checkpoint in it.
        cfg: its configuration.
        checkpoint: that one, or its last.
    """

    path: Path
    cfg: DictConfig
    checkpoint: Mapping[str, Any]

    @classmethod
    def read(cls, path: Path) -> "TrainedRun":
        """Read a directory, or a checkpoint in one.

        Raises:
            ConfigError: it is none of a run, or has no checkpoint.
        """
        folder = path if path.is_dir() else path.parent.parent
        if not (folder / CONFIG).is_file():
            raise ConfigError(f"{path} must be the folder of a run, with {CONFIG} and {CHECKPOINT}")
        return cls(path, read_config(folder), read_checkpoint(path))

    def network(self) -> BlockNetwork:
        """The network with the checkpoint's weights, and of their dtype.

        Raises:
            ConfigError: they are those of another network.
        """
        cfg = self.cfg.copy()
        if cfg.model.get("pretrained") is True:  # nothing need be downloaded to be replaced
            cfg.model.pretrained = False
        network = build_model(cfg)
        state = {name.removeprefix("model."): value for name, value in self.checkpoint["state_dict"].items()}
        there = {name: value for name, value in state.items() if re.match(r"blocks\.\d+\..*\.", name)}  # not a guess's
        network.to(next(value.dtype for value in there.values() if value.is_floating_point()))
        if misfit := _misfit(network.state_dict(), there):
            raise ConfigError(f"the checkpoint of {self.path} does not fit {CONFIG} there: {misfit}")
        network.load_state_dict(there)
        return network

    @property
    def epochs(self) -> int:
        """How many epochs the checkpoint has behind it, the last of them perhaps in part."""
        return self.checkpoint["epoch"] + 1 if self.checkpoint["global_step"] else 0

    @property
    def finished(self) -> bool:
        """Whether the checkpoint is of the end of training."""
        result = read_result(self.path)
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
    pairs, kept = list[tuple[Tensor, Tensor]](), list[str]()
    for j, block in enumerate(network.blocks[:-1]):
        here = block.state_dict()
        there = trained.blocks[j].state_dict() if j < len(trained.blocks) - 1 else {}
        if _misfit(here, {**here, **there}) or _misfit(there, {**there, **here}):
            kept.append(f"blocks.{j}.aux")
        else:
            pairs += [(here[name], there[name]) for name in here if name.startswith("aux.")]
    merge_adapters(trained)
    here, there = _without_auxiliaries(network), _without_auxiliaries(trained)
    for name in [*here]:
        shape, other = here[name].shape, there.get(name, here[name]).shape
        if shape != other and shape[:1] == (classes,) and shape[1:] == other[1:]:
            kept.append(name)
            del here[name], there[name]
    if misfit := _misfit(here, there):
        raise ConfigError(misfit)
    with torch.no_grad():
        for ours, theirs in [*pairs, *((here[name], there[name]) for name in here)]:
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
    """The tensors of the network itself, under the names of its module, without adapters."""
    state = (network.module or network).state_dict()
    last = f"blocks.{len(network.blocks) - 1}.aux."
    return {
        name.replace(".base_layer.", "."): value
        for name, value in state.items()
        if ".lora_" not in name
        and (network.module is not None or name.split(".")[2:3] == ["body"] or name.startswith(last))
    }


def _misfit(here: Mapping[str, Tensor], there: Mapping[str, Tensor]) -> str:
    """The first tensor that only one of two states has, or that has another shape; empty where there is none."""
    for name in [*here, *there]:
        shapes = [str(tuple(state[name].shape)) if name in state else "missing" for state in (here, there)]
        if shapes[0] != shapes[1]:
            return f"{name} is {shapes[0]} in the network, and {shapes[1]} in the checkpoint"
    return ""
