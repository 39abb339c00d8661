"""Texts and their classes in CSV and JSONL files. Needs no torch."""

import csv
import json
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from fglight.errors import DataError, one_line
from fglight.text import plain

SUFFIXES = (".csv", ".jsonl")
"""Of the files that are read."""


class Texts(NamedTuple):
    """Texts, each with the name of its class."""

    texts: Sequence[str]
    labels: Sequence[str]


def found(root: Path, fact: str, **settings: Any) -> Any:
    """Find out what a configuration says of a data set.

    Args:
        root: as for ``load``.
        fact: ``name``, that of the file or folder, in characters that names of runs may have; or ``num_classes``.
        **settings: as for ``load``.

    Raises:
        DataError: as ``load``.
    """
    if fact == "name":
        return plain(root.absolute().stem)
    return len(classes(load(root, **settings)[0].labels))


def load(root: Path, text: str, label: str, test: float | None) -> tuple[Texts, Texts | None]:
    """Read the texts for training, and those for testing where they have a file of their own.

    Args:
        root: a file, or a folder with ``train`` and ``test``.
        text: the column with the text.
        label: the column with its class, a name or a number.
        test: the part of a file that is for testing; None with a folder.

    Raises:
        DataError: a file is missing, damaged or empty, has no such column, or a row has no text or no class; a class of
            testing is none of training; or a file comes without ``test``, or a folder with it.
    """
    if root.is_file():
        if test is None:
            raise DataError(
                f"data.test must be the part of data.root={root} that is for testing, as in data.test=0.2, got null"
            )
        return _read(root, text, label), None
    if test is not None:
        raise DataError(f"data.test must be null where data.root={root} is no file, for its test.csv, got {test}")
    train, testing = (_read(_file(root, name), text, label) for name in ("train", "test"))
    known = set(train.labels)
    for number, name in enumerate(testing.labels, 1):
        if name not in known:
            there = ", ".join(classes(train.labels)[:9])
            raise DataError(
                f"{_file(root, 'test')}, row {number}: {label} must be one of training's, {there}, got {name}"
            )
    return train, testing


def classes(labels: Sequence[str]) -> list[str]:
    """The classes there are: as numbers in their order, where all are whole numbers, else by name."""
    names = set(labels)
    numbers = all(re.fullmatch(r"-?\d+", name) for name in names)
    return sorted(names, key=int if numbers else None)


def _file(root: Path, name: str) -> Path:
    path = next((root / f"{name}{suffix}" for suffix in SUFFIXES if (root / f"{name}{suffix}").is_file()), None)
    if path is None:
        raise DataError(
            f"data.root must be a .csv or .jsonl file, or a folder with train.csv and test.csv (or .jsonl), got {root} "
            f"without {name}.csv"
        )
    return path


def _read(path: Path, text: str, label: str) -> Texts:
    return _read_once(path, text, label, path.stat().st_mtime_ns)


@cache
def _read_once(path: Path, text: str, label: str, changed: int) -> Texts:
    """Read a file, once for all that ask; ``changed`` says of which state it is."""
    if path.suffix not in SUFFIXES:
        raise DataError(f"data.root must be a .csv or .jsonl file, or a folder with some, got {path}")
    texts, labels = [], []
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            for number, row in enumerate(_rows(file, path.suffix), 1):
                texts.append(_value(path, number, row, "text", text))
                labels.append(_value(path, number, row, "label", label))
    except (OSError, ValueError, csv.Error) as error:  # of encodings, JSON and quotes
        raise DataError(f"{path} is damaged, behind row {len(texts)} ({one_line(error)})") from error
    if not texts:
        raise DataError(f"{path} has no rows")
    return Texts(texts, labels)


def _rows(file: Any, suffix: str) -> Iterator[Mapping[str, Any]]:
    if suffix == ".csv":
        csv.field_size_limit(sys.maxsize)
        yield from csv.DictReader(file, strict=True)
        return
    for line in file:
        if line.strip():
            row = json.loads(line)
            if not isinstance(row, dict):
                raise ValueError(f"a line must be a JSON object, got {line.strip()[:40]}")
            yield row


def _value(path: Path, number: int, row: Mapping[str, Any], setting: str, column: str) -> str:
    """What a row has in a column."""
    if column not in row:
        there = ", ".join(map(str, row))
        raise DataError(f"data.{setting} must be a column of {path}, {there}, got {column} (row {number})")
    value = row[column]
    if not isinstance(value, str | int | float) or not str(value).strip() or (value != value):  # NaN
        raise DataError(f"{path}, row {number}: {column} must be a {setting}, got {value or 'nothing'}")
    return str(value).strip() if setting == "label" else str(value)
