"""Which settings there are, what reads them, and which values they may have."""

import inspect
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from difflib import get_close_matches
from functools import cache
from itertools import chain
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from fglight.cell import FACTS
from fglight.config.fixed import FIXED
from fglight.errors import ConfigError, FglightError, one_line

PACKAGE = Path(__file__).parent.parent
CONFIG_DIR = next(folder for folder in (PACKAGE / "conf", PACKAGE.parent / "conf") if folder.is_dir())
"""The folder with ``config.yaml``: inside an installed package, beside it in a checkout."""

OTHERS = ("hydra", "study")
"""Folders of ``conf`` of which a run has no choice."""

GROUPS = tuple(
    sorted(folder.name for folder in CONFIG_DIR.glob("[!.]*/") if folder.is_dir() and folder.name not in OTHERS)
)
"""What a choice is made of on the command line: ``aux``, ``data``, ``engine`` and so on."""

SWEEP_SETTINGS = ("table", "figure", "study", "search", "controls", "seeds", "blocks", "plan")
"""Settings that say which runs a sweep has; no run has them."""

LOOKS = ("check", "verify")
"""Settings that have a run looked at, and not trained."""

NO_RUN_HAS = (*SWEEP_SETTINGS, *LOOKS)
"""Settings of the command line: they ask for something else than a run."""

NOT_ARGUMENTS = ("name", "trained", "interval", "metrics", "block_lr", "decay_vectors", "warmup")
"""Settings of components that are no arguments of their classes."""

DATA = ("name", "num_classes", "in_channels", "image_size", "batch_size")
"""What every data set's file says, whether or not its class takes it."""

_GIVEN = {
    "aux": {"channels", "num_classes", "blocks", "width"},
    "data": {"seed"},
    "loss": {"input", "target", "output", "labels"},
    "model": {"auxiliary", "num_classes", "in_channels", "image_size", "example", "adapt"},
    "optim": {"params"},
    "scheduler": {"optimizer"},
}
"""Arguments that components are given by others, and so do not have as settings."""

# conf/config.yaml begins with this: settings can then be added to a group without a +, as in trainer.max_steps=5. Those
# that nothing reads are refused below.
_OPEN = OmegaConf.create({group: DictConfig({}, flags={"struct": False}) for group in GROUPS})
ConfigStore.instance().store(name="open_groups", node=_OPEN)


class UnknownSettingError(ConfigError, HydraException):
    """A setting that does not exist."""


def check_overrides(overrides: Iterable[str]) -> None:
    """Check what Hydra would not refuse in one line, before a configuration is composed.

    Args:
        overrides: Hydra overrides, as they stand on a command line.

    Raises:
        ConfigError: one cannot be read, is of a setting that does not exist, or leaves a group without a choice.
    """
    parser = OverridesParser.create()
    for text in overrides:
        try:
            override = parser.parse_override(text)
        except HydraException as error:
            raise ConfigError(
                f"{text} cannot be read ({one_line(error).partition(' expecting ')[0]}): it must be setting=value, "
                "with quotes around a value of special characters, as in 'data.root=\"my images\"'"
            ) from error
        name = override.key_or_group
        group, _, value = text.lstrip("+~").partition("=")
        if re.split(r"[./]", name)[0] not in _root():
            listed = (f"{group}.{key}" for group in GROUPS for key in _default(group))
            raise _unknown(name, text.lstrip("+"), [*_root(), *listed])
        if name == "study" and not override.is_sweep_override() and value != "null":
            raise of_sweeps(name, value)
        if group in GROUPS and (text.startswith("~") or "null" in value.lower().split(",")):
            raise _no_choice(group, text)


def check_settings(cfg: DictConfig) -> None:
    """Check that every group has a choice, that something reads every setting, and that its value is in range.

    Raises:
        ConfigError: naming the first setting that is not possible, what it must be and its value.
    """
    for group in GROUPS:
        if not OmegaConf.is_dict(cfg.get(group)):
            raise _no_choice(group, f"{group}={'null' if cfg.get(group) is None else cfg.get(group)}")
    try:
        root = {name: cfg[name] for name in cfg if name not in GROUPS}
        groups = {group: OmegaConf.to_container(cfg[group], resolve=True) for group in GROUPS}
    except OmegaConfBaseException as error:  # of an interpolation
        said = next((cause for cause in _causes(error) if isinstance(cause, FglightError)), None)
        if said is not None:
            raise ConfigError(str(said)) from error
        raise ConfigError(f"{error.full_key} has no value: {str(error).splitlines()[0]}") from error
    _check_names(root, groups)
    from fglight.config.values import check_values  # pydantic takes a while, and help does without

    check_values(root, groups)
    known = [name for name, choice in choices("aux").items() if "parts" not in choice]
    parts = groups["aux"].get("parts", known)
    if not (isinstance(parts, list) and parts and all(parts.count(part) == 1 and part in known for part in parts)):
        raise ConfigError(f"aux.parts must be a list of {', '.join(known)}, each at most once, got {parts}")


def _check_names(root: Mapping[str, Any], groups: Mapping[str, Mapping[str, Any]]) -> None:
    read = {group: _read(group, settings) for group, settings in groups.items()}
    for name, callback in groups["callbacks"].items():
        target = callback.get("_target_") if isinstance(callback, dict) else callback
        read[f"callbacks.{name}"] = arguments(f"callbacks.{name}", target)
    said = {f"{group}.{fact}" for group, facts in FACTS.items() for fact in facts}
    names = (f"{node}.{name}" for node in read for name in read[node] or () if name[0] != "_")
    known = [*_root(), *(name for name in names if name not in said and name.removeprefix("trainer.") not in FIXED)]
    unread = chain(
        ((name, value) for name, value in root.items() if name not in _root()),
        *(_unread(group, settings, read[group]) for group, settings in groups.items()),
        _unread("loss.metrics", groups["loss"].get("metrics") or {}, None),  # each has a name of the user's
    )
    for name, value in unread:
        raise _unknown(name, f"{name}={value}", known)


def _unread(node: str, settings: Mapping[str, Any], read: frozenset[str] | None) -> Iterator[tuple[str, Any]]:
    """The settings of a node that nothing reads: full names and values."""
    for name, value in settings.items():
        if read is not None and name not in read:
            yield f"{node}.{name}", value
        elif isinstance(value, dict) and value.keys() > {"_target_"}:
            yield from _unread(f"{node}.{name}", value, arguments(f"{node}.{name}", value["_target_"]))


def _read(group: str, settings: Mapping[str, Any]) -> frozenset[str] | None:
    """The settings of a group that something reads; None where its class takes any."""
    if group == "callbacks":  # each has a name of the user's
        return None
    if group == "trainer":
        from fglight.config.rules import Trainer

        return frozenset(Trainer.model_fields)
    target = settings.get("_target_")
    own = "_target_" in settings and target is None  # the user's to say, as with model=any
    listed = frozenset().union(*(choice for choice in choices(group).values() if choice.get("_target_") == target))
    if listed and not own and (group not in ("loss", "optim", "scheduler") or settings.keys() <= listed):
        return listed  # to import a class takes seconds, and those of the package have no more than their files list
    taken = arguments(group, target)
    said = not_arguments(group) | set(DATA if group == "data" else ())
    said |= CUTTING if group == "model" and is_cut(settings) else set()
    return None if taken is None else (taken - _GIVEN.get(group, set())) | said


def not_arguments(group: str) -> set[str]:
    """The settings of a group that its classes are not given."""
    return set(NOT_ARGUMENTS).intersection(_default(group)).union(FACTS.get(group, ()))


def is_cut(model: Mapping[str, Any]) -> bool:
    """Whether the class of a network gives a module that is to be cut, and no blocks with auxiliary networks."""
    return "cuts" in model and "auxiliary" not in parameters("model", model["_target_"])[0]


def arguments(node: str, target: Any) -> frozenset[str] | None:
    """The settings that instantiating a target reads; None for any."""
    names, takes_any = parameters(node, target)
    return None if takes_any else names


def parameters(node: str, target: Any) -> tuple[frozenset[str], bool]:
    """The settings that instantiating a target names, and whether it takes any others."""
    if not isinstance(target, str):
        raise ConfigError(f"{node}._target_ must be the name of a class, got {target}")
    try:
        found = resolve_name(target)
        names, takes_any = {"_target_", "_args_", "_recursive_", "_convert_"}, False
        for owner in inspect.getmro(found)[:-1] if inspect.isclass(found) else (found,):
            if owner is not found and "__init__" not in vars(owner):
                continue
            parameters = inspect.signature(owner).parameters.values()
            takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters)
            names |= {parameter.name for parameter in parameters if parameter.kind is not parameter.VAR_KEYWORD}
            if not takes_any or not owner.__module__.startswith("fglight."):  # who hands what it does not know on
                break
    except Exception as error:  # whatever importing a module may raise
        raise ConfigError(f"{node}._target_={target} is not possible: {one_line(error)}") from error
    return frozenset(names), takes_any


@cache
def choices(group: str) -> dict[str, dict[str, Any]]:
    """The files of a group that the package has, by their names."""
    files = (CONFIG_DIR / group).glob("[!.]*.yaml")
    return {file.stem: OmegaConf.to_container(OmegaConf.load(file)) for file in sorted(files)}


CUTTING = choices("model")["any"].keys()
"""Settings of a network that say how any module is cut, and are no arguments of its class."""


def _default(group: str) -> dict[str, Any]:
    """The file of a group's default choice."""
    return choices(group)[defaults()[group]]


@cache
def root_file() -> DictConfig:
    """``config.yaml`` as it stands."""
    return OmegaConf.load(CONFIG_DIR / "config.yaml")


def defaults() -> dict[str, str]:
    """The default choice of every group."""
    entries = [entry for entry in root_file().defaults if OmegaConf.is_dict(entry)]
    return {group: entry[group] for entry in entries for group in entry if group in GROUPS}


def _root() -> tuple[str, ...]:
    """The groups and settings of ``config.yaml``."""
    return *GROUPS, *(name for name in root_file() if name != "defaults")


def _unknown(name: str, text: str, known: Collection[str]) -> UnknownSettingError:
    """The error for a setting that does not exist; it names the nearest that do."""
    group, _, key = name.rpartition(".")
    groups = get_close_matches(group.partition(".")[0], GROUPS, n=1)
    family = [other for other in known if groups and other.startswith(f"{groups[0]}.")] or known
    namesakes = [other for other in known if _key(other) == key]
    near = get_close_matches(key, map(_key, family), cutoff=0.7)
    found = namesakes or [other for other in family if _key(other) in near]
    listed = family if groups else [other for other in known if "." not in other and other != "hydra"]
    instead = f"did you mean {' or '.join(found)}?" if found else f"there are {', '.join(sorted(listed))}"
    return UnknownSettingError(f"{text} is not possible, nothing reads it: {instead}")


def _key(name: str) -> str:
    return name.rpartition(".")[2]


def of_sweeps(setting: str, value: str) -> ConfigError:
    """The error for a setting of a sweep where there is none."""
    return ConfigError(
        f"{setting}={value} belongs to a sweep of tables, figures or studies: add -m, without hydra/sweeper"
    )


def _no_choice(group: str, text: str) -> ConfigError:
    return ConfigError(f"{group} must be {' or '.join(choices(group))}, got {text}")


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The errors that led to an error, the latest first."""
    cause = error.__cause__ or error.__context__
    while cause is not None:
        yield cause
        cause = cause.__cause__ or cause.__context__
