"""What a run is of: a cell of the paper's tables, or one like them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hydra.utils import get_class
from omegaconf import DictConfig, OmegaConf

from fglight.errors import ConfigError

FACTS = {
    "guess": ("random", "uses_auxiliaries", "projects"),
    "target": ("uses_auxiliaries",),
    "data": ("images", "tokens"),
}
"""What the files of components say of them, so that no class need be imported to know it. They set nothing."""


def says(component: DictConfig, fact: str) -> Any:
    """What a component says of itself: in its file, or else in its class, which takes longer to look at."""
    return component[fact] if fact in component else getattr(get_class(component._target_), fact)


def _name(cfg: DictConfig, group: str, setting: str = "name") -> Any:
    name = cfg[group].get(setting)
    if OmegaConf.is_config(name):
        raise ConfigError(f"{group}.{setting} must be a name, got {name}")
    return name


@dataclass(frozen=True)
class Cell:
    """A cell of a table, in the words of the paper's tables; ``aux`` and ``perturb`` are empty where it has none.

    Attributes:
        data: name of the data set.
        blocks: number of blocks of the paper's network, 0 for others.
        width: width factor of the paper's network, 1 for others.
        target: name of the target.
        guess: name of the guess.
        aux: name of the auxiliary network, empty where neither target nor guess uses one.
        perturb: name of the perturbation, empty for guesses that nothing is projected on.
        network: name of the network; the paper's is the one with blocks.
    """

    data: str
    blocks: int
    width: float
    target: str
    guess: str
    aux: str
    perturb: str
    network: str = "resnet18"

    @classmethod
    def from_config(cls, cfg: DictConfig) -> "Cell":
        """The cell that a configuration describes.

        Raises:
            ConfigError: a component's name is a group or a list.
        """
        network = _name(cfg, "model", "network") or _name(cfg, "model")
        size = cfg.model if network == cls.network else {}  # what the settings of others mean is their own affair
        has_aux = says(cfg.target, "uses_auxiliaries") or says(cfg.guess, "uses_auxiliaries")
        return cls(
            data=_name(cfg, "data"),
            blocks=size.get("blocks", 0),
            width=size.get("width", 1.0),
            target=_name(cfg, "target"),
            guess=_name(cfg, "guess"),
            aux=_name(cfg, "aux") if has_aux else "",
            perturb=_name(cfg, "perturb") if says(cfg.guess, "projects") else "",
            network=network,
        )

    def __str__(self) -> str:
        """A name for files and dashboards, such as ``cifar10-8b-global-local-cnn-weight``."""
        # A width that is no number is refused later; until then it only names the run's directory.
        width = "" if self.width == 1 else f"w{self.width:g}" if isinstance(self.width, int | float) else "w"
        size = f"{self.blocks}b{width}" if self.blocks else width
        words = (self.data, self._other_network, size, self.target, self.guess, self.aux)
        return "-".join(word for word in (*words, self.perturb) if word)

    @property
    def in_words(self) -> str:
        """A name for people: ``cifar10, 8 blocks, local guess, cnn, weight, global target``."""
        blocks = f"{self.blocks} blocks" if self.blocks else ""
        parts = (self.data, self._other_network, blocks, f"{self.guess} guess", self.aux, self.perturb)
        width = "" if self.width == 1 else f"width {self.width:g}"
        return ", ".join(part for part in (*parts, f"{self.target} target", width) if part)

    @property
    def _other_network(self) -> str:
        """The network's name, empty for the paper's."""
        return "" if self.network == Cell.network and self.blocks else self.network


def cell_of(words: Mapping[str, Any]) -> Cell:
    """Build a cell from a mapping with its seven keys, as text or numbers; ``aux`` and ``perturb`` may be None.

    An eighth, ``network``, may be there or not.

    Raises:
        KeyError: A key is missing.
        TypeError: ``blocks`` or ``width`` is no number.
        ValueError: As ``TypeError``.
    """
    text = {key: str(words[key] or "") for key in ("data", "target", "guess", "aux", "perturb")}
    network = {"network": str(words["network"])} if words.get("network") else {}
    return Cell(blocks=int(words["blocks"]), width=float(words["width"]), **text, **network)
