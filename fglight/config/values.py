"""Checking the values of settings, and saying what they must be in words that follow from the rules."""

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from fglight.config.rules import MODELS, Settings
from fglight.errors import ConfigError

_VALUES = {"boolean": ["true", "false"], "null": ["null"]}
_NUMBERS = {"integer": "a whole number", "number": "a number"}
_BOUNDS = {
    "minimum": "from {} on",
    "exclusiveMinimum": "above {}",
    "maximum": "up to {}",
    "exclusiveMaximum": "below {}",
}


def check_values(root: Mapping[str, Any], groups: Mapping[str, Mapping[str, Any]]) -> None:
    """Check that the values of settings are in range.

    Args:
        root: the settings outside of groups.
        groups: the settings of each group.

    Raises:
        ConfigError: naming the first setting that is not possible, what it must be and its value.
    """
    for group, model in MODELS.items():
        check(group, model, groups[group] if group else root)


def check(group: str, model: type[Settings], values: Mapping[str, Any]) -> None:
    """Check that the values of a group's settings are in range.

    Args:
        group: its name, empty for the root.
        model: its settings.
        values: their values.

    Raises:
        ConfigError: as above.
    """
    try:
        model.model_validate(values)
    except ValidationError as error:
        name = str(error.errors()[0]["loc"][0])
        setting = f"{group}.{name}" if group else name
        known = model.model_json_schema()["properties"]
        if name not in known:
            raise ConfigError(f"{setting} must be one of {', '.join(known)}") from None
        if name not in values:
            raise ConfigError(f"{setting} must be given") from None
        raise ConfigError(f"{setting} must be {_words(known[name])}, got {values[name]}") from None


def _words(schema: Mapping[str, Any]) -> str:
    *most, last = _alternatives(schema)
    return f"{', '.join(most)} or {last}" if most else last


def _alternatives(schema: Mapping[str, Any]) -> list[str]:
    """What a JSON schema accepts, in words."""
    if "description" in schema:
        return [schema["description"]]
    if "anyOf" in schema:
        return [words for part in schema["anyOf"] for words in _alternatives(part)]
    if "enum" in schema or "const" in schema:
        return schema.get("enum") or [schema["const"]]
    if schema["type"] in _VALUES:
        return _VALUES[schema["type"]]
    bounds = [words.format(schema[bound]) for bound, words in _BOUNDS.items() if bound in schema]
    return [f"{_NUMBERS[schema['type']]} {', '.join(bounds)}"]
