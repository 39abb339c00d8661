"""Which cells take the same time, and which must be measured to know the time of all."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from omegaconf import DictConfig

from fglight.cell import Cell
from fglight.runs.settings import run_settings

Seconds = tuple[float, float]
"""What an image takes in training and in testing."""


@dataclass(frozen=True)
class Kind:
    """What decides on the time of a step; learning rates do not, and the number of classes hardly does.

    Attributes:
        network: the network, the images' shape and the batch size.
        estimator: target, guess, perturbation, auxiliary network and engine.
        family: of estimators whose times change alike from one network to another: those with the same perturbation
            and engine, with guesses that are all drawn, all computed or all exact, and all or none with auxiliary
            networks.
        aux: name of the auxiliary network, empty where none is used.
        size: grows with the time of a network: its width and the side of an image.
        name: of the network and the images' shape, for people.
    """

    network: str
    estimator: str
    family: str = field(compare=False)
    aux: str = field(compare=False)
    size: tuple[float, int] = field(compare=False)
    name: str = field(compare=False)

    @classmethod
    def of(cls, cfg: DictConfig) -> "Kind":
        """The kind of a configuration."""
        settings = run_settings(cfg)
        data, model, guess = settings["data"], settings["model"], settings["guess"]
        shape = {key: data[key] for key in ("in_channels", "image_size", "batch_size")}
        how = {key: settings[key] for key in ("target", "guess", "perturb", "aux", "engine", "probe")}
        if not guess["projects"]:
            how["perturb"] = None
        aux = Cell.from_config(cfg).aux
        sort = "exact" if not guess["projects"] else "drawn" if guess["random"] else "computed"
        return cls(
            network=_text({**model, **shape}),
            estimator=_text(how),
            family=_text([sort, bool(aux), how["perturb"], how["engine"], how["probe"]]),
            aux=aux,
            size=(model["width"], data["image_size"]),
            name=f"{model['name']}, width {model['width']:g}, {data['in_channels']}x{data['image_size']}x"
            f"{data['image_size']}",
        )


@dataclass(frozen=True)
class Scaling:
    """How the time of a kind follows from three others.

    Attributes:
        relative: a kind of the same family on the same network.
        here: the kind's own estimator on the reference network.
        relative_here: the relative's estimator on the reference network.
    """

    relative: Kind
    here: Kind
    relative_here: Kind

    def seconds(self, measured: Mapping[Kind, Seconds]) -> Seconds:
        """The time of the relative, times the ratio of the two estimators on the reference network."""
        three = (measured[kind] for kind in (self.relative, self.here, self.relative_here))
        training, testing = (relative * here / relative_here for relative, here, relative_here in zip(*three))
        return training, testing


def choose(kinds: Iterable[Kind]) -> dict[Kind, Scaling | None]:
    """Decide which kinds to measure: all on a reference network, and one of each family on the others.

    On narrower networks and images of another size, it is one of each family and auxiliary network. The reference is
    the network with most estimators, of several the smallest.

    Args:
        kinds: all there are.

    Returns:
        For each kind how it follows from others; None for those that are to be measured.
    """
    networks: dict[str, dict[str, Kind]] = {}
    for kind in kinds:
        networks.setdefault(kind.network, {}).setdefault(kind.estimator, kind)
    reference = min(networks.values(), key=lambda members: (-len(members), next(iter(members.values())).size))
    width, side = next(iter(reference.values())).size
    chosen: dict[Kind, Scaling | None] = {}
    for members in networks.values():
        relatives: dict[tuple[str, str], Kind] = {}
        for estimator, kind in members.items():
            chosen[kind] = None
            if members is reference or estimator not in reference:
                continue
            # With the images or the width, the time of an auxiliary network changes in another way than the blocks'; on
            # wider networks, whose steps take long, not enough to measure each.
            aux = "" if kind.size[1] == side and kind.size[0] >= width else kind.aux
            relative = relatives.setdefault((kind.family, aux), kind)
            if relative is not kind:
                chosen[kind] = Scaling(relative, reference[estimator], reference[relative.estimator])
    return chosen


def _text(settings: Any) -> str:
    return json.dumps(settings, sort_keys=True)
