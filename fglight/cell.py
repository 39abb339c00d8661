"""Cells of the paper's tables: what a run is of, in the words of the tables."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from omegaconf import DictConfig

RANDOM_GUESSES = ("gaussian", "rademacher")


@dataclass(frozen=True)
class Cell:
    """A cell of a table, in the words of the paper's tables; ``aux`` and ``perturb`` are empty where it has none.

    Attributes:
        data: name of the data set.
        blocks: number of blocks of the network.
        width: width factor of the network.
        target: name of the target.
        guess: name of the guess.
        aux: name of the auxiliary network, empty where neither target nor guess uses one.
        perturb: name of the perturbation, empty for the exact guess.
    """

    data: str
    blocks: int
    width: float
    target: str
    guess: str
    aux: str
    perturb: str

    @classmethod
    def from_config(cls, cfg: DictConfig) -> "Cell":
        """The cell that a configuration describes."""
        target, guess = cfg.target.name, cfg.guess.name
        has_aux = target != "global" or guess not in ("exact", *RANDOM_GUESSES)
        return cls(
            data=cfg.data.name,
            blocks=cfg.model.blocks,
            width=cfg.model.width,
            target=target,
            guess=guess,
            aux=cfg.aux.name if has_aux else "",
            perturb=cfg.perturb.name if guess != "exact" else "",
        )

    def __str__(self) -> str:
        """A name for files and dashboards, such as ``cifar10-8b-global-local-cnn-weight``."""
        # A width that is no number is refused later; until then it only names the run's directory.
        width = "" if self.width == 1 else f"w{self.width:g}" if isinstance(self.width, int | float) else "w"
        words = (self.data, f"{self.blocks}b{width}", self.target, self.guess, self.aux, self.perturb)
        return "-".join(word for word in words if word)


def cell_of(words: Mapping[str, Any]) -> Cell:
    """Build a cell from a mapping with its seven keys, as text or numbers; ``aux`` and ``perturb`` may be None.

    Raises:
        KeyError: A key is missing.
        TypeError: ``blocks`` or ``width`` is no number.
        ValueError: As ``TypeError``.
    """
    text = {key: str(words[key] or "") for key in ("data", "target", "guess", "aux", "perturb")}
    return Cell(blocks=int(words["blocks"]), width=float(words["width"]), **text)


def in_words(cell: Cell) -> str:
    """Name a cell for people: ``cifar10, 8 blocks, local guess, cnn, weight, global target``."""
    parts = (cell.data, f"{cell.blocks} blocks", f"{cell.guess} guess", cell.aux, cell.perturb)
    width = "" if cell.width == 1 else f"width {cell.width:g}"
    return ", ".join(part for part in (*parts, f"{cell.target} target", width) if part)
