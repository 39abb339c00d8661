"""What decides on the time of a step, in parts that many cells have in common."""

import json
from dataclasses import dataclass, field
from pkgutil import resolve_name
from typing import Any

from omegaconf import DictConfig

from fglight.config.settings import choices
from fglight.estimators import FixedNTKGuess, GaussianGuess, LocalGuess, NTKGuess, RademacherGuess
from fglight.runs.settings import run_settings

ALIKE = ((LocalGuess, NTKGuess, FixedNTKGuess), (GaussianGuess, RademacherGuess))
"""Guesses that take the same time but for their auxiliary networks; any other is timed by itself."""


@dataclass(frozen=True)
class Kind:
    """A configuration's step; learning rates do not change its time, and the number of classes hardly does.

    Attributes:
        network: the network's blocks, and the images' shape.
        shape: the images'.
        batch: how many images a step has.
        passes: what is done with the blocks: target, guess, perturbation and engine.
        auxiliaries: the auxiliary networks and what is done with them; empty where they take no part.
        whole: whether its auxiliary networks cannot be told from its passes.
        model: name of the network.
        family: networks on which an estimator takes about as many times as long as backpropagation: those of a class,
            and where it has several networks, of one of them.
        name: of the network and the images' shape, for people.
    """

    network: str
    shape: str = field(compare=False)
    batch: int
    passes: str
    auxiliaries: str
    whole: bool = field(compare=False)
    model: str = field(compare=False)
    family: str = field(compare=False)
    name: str = field(compare=False)

    @property
    def comparable(self) -> "str | Kind":
        """What kinds share whose times follow from each other; itself where none's does."""
        return self if self.whole else self.family

    @classmethod
    def of(cls, cfg: DictConfig) -> "Kind":
        """The kind of a configuration."""
        settings = run_settings(cfg)
        data, model, guess = settings["data"], settings["model"], settings["guess"]
        shape = {key: data[key] for key in ("in_channels", "image_size")}
        guessed = resolve_name(guess["_target_"])
        alike = next((str(i) for i, classes in enumerate(ALIKE) if guessed in classes), None)
        apart = guess["uses_auxiliaries"] and "parts" in settings["aux"] and guess.get("combine") != "sum"
        single = guess.get("directions", 1) == 1 and not apart
        parts = ("target", "guess", "perturb", "engine", "probe", "checkpointing", "channels_last")
        how = {key: settings[key] for key in parts}
        if alike and single:
            how["guess"] = alike
        if not guess["projects"]:
            how["perturb"] = None
        whole = guess["uses_auxiliaries"] and not (alike and single)
        auxiliaries = ""
        if whole:
            how["aux"] = settings["aux"]
        elif settings["target"]["uses_auxiliaries"] or guess["uses_auxiliaries"] or settings["probe"]:
            auxiliaries = _text([settings["aux"], guessed.trains_auxiliaries, settings["probe"]])
        usual = choices("model").get(model["name"], {})  # an interpolation there is the recipe's
        changed = {
            key: value for key, value in model.items() if usual.get(key) != value and "${" not in str(usual.get(key))
        }
        said = [model["name"], *(f"{key} {value}" for key, value in changed.items() if key not in ("_target_", "name"))]
        return cls(
            network=_text({**model, **shape}),
            shape=_text(shape),
            batch=data["batch_size"],
            passes=_text(how),
            auxiliaries=auxiliaries,
            whole=whole,
            model=_text([model["name"], model.get("network")]),
            family=_text([model["_target_"], model.get("network")]),
            name=f"{', '.join(said)}, {data['in_channels']}x{data['image_size']}x{data['image_size']}",
        )


def _text(settings: Any) -> str:
    return json.dumps(settings, sort_keys=True)
