"""The weights that a run leaves, for another run, an evaluation or the world outside."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from torch import Tensor

from fglight.build import build_model
from fglight.errors import ConfigError
from fglight.models import BlockNetwork
from fglight.runs.folder import CHECKPOINT, CONFIG, read_config, read_result
from fglight.training.checkpoint import read_checkpoint

_GUESSES_OWN = re.compile(r"blocks\.\d+\.[^.]+")
"""Names of what a guess keeps in the blocks, which is no part of the network."""


def load_weights(network: BlockNetwork, checkpoint: Mapping[str, Any], *, anew: int | None = None) -> list[str]:
    """Give a network the weights of a checkpoint.

    Args:
        network: the network; it is changed only if all fits.
        checkpoint: as ``read_checkpoint`` gives it.
        anew: None, or how many classes the network has, where what depends on more than the network may stay as it is:
            the classifier's tensors where the checkpoint's are of another number of classes, and the auxiliary
            networks of those blocks where the checkpoint has others.

    Returns:
        The names of tensors, and of auxiliary networks, that stay as they are.

    Raises:
        ConfigError: naming the first tensor that does not fit, and both shapes.
    """
    there = {name.removeprefix("model."): value for name, value in checkpoint["state_dict"].items()}
    there = {name: v for name, v in there.items() if name.startswith("blocks.") and not _GUESSES_OWN.fullmatch(name)}
    here = {name: value for name, value in network.state_dict().items() if not _GUESSES_OWN.fullmatch(name)}
    kept = []
    if anew is not None:
        for j in range(len(network.blocks) - 1):
            part = f"blocks.{j}.aux"
            ours, theirs = (
                {name: state.pop(name) for name in [*state] if name.startswith(f"{part}.")} for state in (here, there)
            )
            if _misfit(ours, theirs):
                kept.append(part)
            else:
                here, there = here | ours, there | theirs
        for name in [*here]:
            ours, theirs = here[name].shape, there.get(name, here[name]).shape
            if ours != theirs and ours[:1] == (anew,) and ours[1:] == theirs[1:]:
                kept.append(name)
                del here[name], there[name]
    if misfit := _misfit(here, there):
        raise ConfigError(misfit)
    network.load_state_dict(there, strict=False)
    return kept


def _misfit(here: Mapping[str, Tensor], there: Mapping[str, Tensor]) -> str:
    """The first tensor that only one of two states has, or that has another shape; empty where there is none."""
    for name in [*here, *there]:
        shapes = [str(tuple(state[name].shape)) if name in state else "missing" for state in (here, there)]
        if shapes[0] != shapes[1]:
            return f"{name} is {shapes[0]} in the network, and {shapes[1]} in the checkpoint"
    return ""


@dataclass(frozen=True)
class TrainedRun:
    """A run's directory, as what it has trained so far.

    Attributes:
        path: of the directory.
        cfg: its configuration.
        checkpoint: its last one.
    """

    path: Path
    cfg: DictConfig
    checkpoint: Mapping[str, Any]

    @classmethod
    def read(cls, path: Path) -> "TrainedRun":
        """Read a directory.

        Raises:
            ConfigError: it is none of a run, or has no checkpoint.
        """
        if not (path / CONFIG).is_file():
            raise ConfigError(f"{path} must be the folder of a run, with {CONFIG} and {CHECKPOINT}")
        return cls(path, read_config(path), read_checkpoint(path))

    def network(self) -> BlockNetwork:
        """The network with the checkpoint's weights, and of their dtype.

        Raises:
            ConfigError: they are those of another network.
        """
        network = build_model(self.cfg)
        dtypes = (value.dtype for value in self.checkpoint["state_dict"].values() if value.is_floating_point())
        network.to(next(dtypes))
        try:
            load_weights(network, self.checkpoint)
        except ConfigError as error:
            raise ConfigError(f"{self.path / CHECKPOINT} does not fit {CONFIG} there: {error}") from error
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
