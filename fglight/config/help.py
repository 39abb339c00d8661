"""A configuration as its files have it, with their comments, and with the values that settings have."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from fglight.cell import FACTS
from fglight.config.settings import CONFIG_DIR, GROUPS
from fglight.errors import FglightError

_SETTING = re.compile(r"(?P<indent> *)(?P<name>\w+):(?P<gap> *)(?P<value>[^#\n]*?)(?P<comment> *#.*)?$")


def commented(cfg: DictConfig, chosen: Mapping[str, str], folders: Sequence[Path] = ()) -> str:
    """The files of the chosen components and ``config.yaml``, with the values of a configuration.

    Args:
        cfg: the configuration.
        chosen: the choice of each group.
        folders: where files of one's own are, which come first.
    """
    lines = []
    for group in GROUPS:
        places = (folder / group / f"{chosen.get(group)}.yaml" for folder in (*folders, CONFIG_DIR))
        file = next((place for place in places if place.is_file()), None)
        if file is not None and OmegaConf.is_dict(cfg.get(group)) and cfg[group]:
            found = _with_values(cfg, group, file.read_text().splitlines())
            lines += [f"{group}:  # {group}={chosen[group]}", *(f"  {line}".rstrip() for line in found), ""]
    root = (CONFIG_DIR / "config.yaml").read_text()
    own = root[root.index("\nseed:") + 1 : root.index("\nhydra:")]
    return "\n".join([*lines, *_with_values(cfg, "", own.splitlines())])


def _with_values(cfg: DictConfig, group: str, lines: Sequence[str]) -> Iterator[str]:
    """The lines of a file, but for facts and the names that files give to themselves."""
    above: list[tuple[int, str]] = []
    for line in lines:
        found = _SETTING.match(line)
        if found is None or line.lstrip().startswith("#"):
            yield line
            continue
        indent, name, value = len(found["indent"]), found["name"], found["value"]
        above = [(deep, outer) for deep, outer in above if deep < indent]
        path = ".".join([*[group] * bool(group), *(outer for _, outer in above), name])
        if not value:
            above.append((indent, name))
        if name in FACTS.get(group, ()):
            continue
        now = _value(cfg, path, value) if value else ""
        yield f"{found['indent']}{name}:{found['gap']}{now}{found['comment'] or ''}"


def _value(cfg: DictConfig, path: str, written: str) -> str:
    """What a setting has, as it is written where that says the same or where it cannot be found out."""
    try:
        now: Any = OmegaConf.select(cfg, path)
        was = OmegaConf.create(f"x: {written}").x if "${" not in written else None
    except (OmegaConfBaseException, FglightError):
        return written
    if now == was or (now is None and "${" in written):
        return written
    if OmegaConf.is_config(now):
        now = OmegaConf.to_container(now, resolve=True)
    return str(now) if isinstance(now, str) else json.dumps(now)
