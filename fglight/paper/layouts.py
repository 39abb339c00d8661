"""The layouts of Tables 2 to 12 as data: which part of a cell each row and each column of a table names.

A header is the words that the paper prints, outermost first, with the parts of a cell that they stand for. A row and
a column together give a cell; where a row fixes what the columns vary (end-to-end training has no perturbation),
neighbouring columns name the same cell and are one wide entry, as in the paper. Rows that the paper does not print, of
cells that a table's caption speaks of, are the last of it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import groupby, product
from typing import Any

from fglight.cell import Cell, cell_of

Parts = Mapping[str, Any]


@dataclass(frozen=True)
class Header:
    """The words of a row or column, outermost first, and what they fix of its cells."""

    words: tuple[str, ...]
    parts: Parts


@dataclass(frozen=True)
class Layout:
    """One table.

    Attributes:
        number: the paper's number.
        title: what is in it.
        corner: for each column of row headers, the words above it: one for each line of column headers, empty where the
            paper has none.
        columns: headers of the columns, from left to right.
        rows: headers of the rows, from top to bottom.
        fixed: what all its cells share.
        above: how many of the rows stand above the last line of column headers.
    """

    number: int
    title: str
    corner: tuple[tuple[str, ...], ...]
    columns: tuple[Header, ...]
    rows: tuple[Header, ...]
    fixed: Parts
    above: int = 0

    def cells(self, row: Header) -> list[tuple[Cell, int]]:
        """The cells of a row from left to right, each with the number of columns that it spans."""
        named = [cell_of({**self.fixed, **column.parts, **row.parts}) for column in self.columns]
        return [(cell, len(list(same))) for cell, same in groupby(named)]

    def header_lines(self) -> list[tuple[list[str], list[tuple[str, int]]]]:
        """The lines of headers, outermost first: the corner's words, and columns' with how many they span."""
        return [
            (
                [words[level] for words in self.corner],
                [
                    (words[-1], len(list(same)))
                    for words, same in groupby(column.words[: level + 1] for column in self.columns)
                ],
            )
            for level in range(len(self.columns[0].words))
        ]


def _level(part: str, words: Mapping[str, object]) -> tuple[Header, ...]:
    """One part of a cell by the words for its values: ``_level("aux", {"CNN": "cnn"})``."""
    return tuple(Header((word,), {part: value}) for word, value in words.items())


def _cross(*levels: tuple[Header, ...]) -> tuple[Header, ...]:
    """Every combination of the levels' headers, the first level outermost."""
    return tuple(
        Header(sum((header.words for header in headers), ()), {k: v for h in headers for k, v in h.parts.items()})
        for headers in product(*levels)
    )


def _row(words: str, **parts: object) -> Header:
    return Header((words,), parts)


PERTURB = _level("perturb", {"Activity": "activity", "Weight": "weight"})
PERTURB_SHORT = _level("perturb", {"Activ.": "activity", "Weight": "weight"})
AUX = _level("aux", {"CNN": "cnn", "MLP": "mlp", "Linear": "linear"})
BLOCKS_8_16 = _level("blocks", {"8 blocks": 8, "16 blocks": 16})
BLOCKS_16_8 = _level("blocks", {"16 blocks": 16, "8 blocks": 8})
WIDTHS = _level("width", {"0.5": 0.5, "2": 2, "4": 4})
TWO_DATA_SETS = _level("data", {"CIFAR-10": "cifar10", "ImageNet32": "imagenet32"})
CIFAR_100 = _level("data", {"CIFAR-100": "cifar100"})
FASHION = _level("data", {"Fashion-MNIST": "fashion_mnist"})
IMAGENETTE = _level("data", {"Imagenette": "imagenette"})


def _with_aux(words: str, guess: str) -> tuple[Header, ...]:
    """A guess with each auxiliary, in one column of row headers: ``Local, CNN``."""
    return tuple(_row(f"{words}, {aux.words[0]}", guess=guess, **aux.parts) for aux in AUX)


def _random(gaussian: str, rademacher: str, **parts: object) -> tuple[Header, ...]:
    """The random guesses, in the words of a table."""
    return _row(gaussian, guess="gaussian", **parts), _row(rademacher, guess="rademacher", **parts)


END_TO_END = _row("End-to-End", guess="exact", aux="", perturb="")
LOCAL_AND_NTK = (*_with_aux("Local", "local"), *_with_aux("NTK", "ntk"))
RANDOM = _random("Gaussian", "Rademacher", aux="")
LOCAL_LEARNING = _row("Local learning", guess="exact", perturb="")
LOCAL_TARGET = (LOCAL_LEARNING, *_random("Gaussian Guess", "Rademacher Guess"))

_CIFAR10_WIDTH_1: Parts = {"data": "cifar10", "width": 1}

LAYOUTS: dict[int, Layout] = {
    layout.number: layout
    for layout in (
        Layout(
            number=2,
            title="Global target, 16 blocks, on CIFAR-10 and ImageNet32",
            corner=(("Dataset", ""),),
            columns=_cross(TWO_DATA_SETS, PERTURB_SHORT),
            rows=(END_TO_END, *LOCAL_AND_NTK, *RANDOM),
            fixed={"blocks": 16, "width": 1, "target": "global"},
        ),
        Layout(
            number=3,
            title="Global target, 8 blocks, on CIFAR-10 and ImageNet32",
            corner=(("Dataset", "Guess"),),
            columns=_cross(TWO_DATA_SETS, PERTURB_SHORT),
            rows=(END_TO_END, *LOCAL_AND_NTK, *RANDOM),
            fixed={"blocks": 8, "width": 1, "target": "global"},
            above=1,
        ),
        Layout(
            number=4,
            title="Local target, on CIFAR-10",
            corner=(("", ""), ("", "Guesses")),
            columns=_cross(AUX, PERTURB),
            rows=_cross(
                BLOCKS_8_16, (_row("Local Target", guess="exact", perturb=""), *_random("Gaussian", "Rademacher"))
            ),
            fixed={**_CIFAR10_WIDTH_1, "target": "local"},
        ),
        Layout(
            number=5,
            title="Intermediate target, on CIFAR-10",
            corner=(("ResNet-18 split", ""),),
            columns=_cross(BLOCKS_8_16, PERTURB_SHORT),
            rows=(
                *LOCAL_AND_NTK,
                *(
                    _row(f"{words}, {aux.words[0]} tgt", guess=guess, **aux.parts)
                    for words, guess in (("Gaussian", "gaussian"), ("Rademacher", "rademacher"))
                    for aux in AUX
                ),
            ),
            fixed={**_CIFAR10_WIDTH_1, "target": "intermediate"},
        ),
        Layout(
            number=6,
            title="Global target projected on the span of a batch of local guesses, on CIFAR-10",
            corner=(("Model",), ("Gradient Guess subspace",)),
            columns=(Header(("Accuracy",), {"perturb": "activity_span"}),),
            rows=_cross(
                _level("blocks", {"ResNet-18, 8 blocks": 8, "ResNet-18, 16 blocks": 16}),
                _with_aux("Local Guess", "local"),
            ),
            fixed={**_CIFAR10_WIDTH_1, "target": "global"},
        ),
        Layout(
            number=7,
            title="Global target, on CIFAR-100, Fashion-MNIST and Imagenette",
            corner=(("Dataset", "", "Guess"),),
            columns=_cross((*CIFAR_100, *FASHION, *IMAGENETTE), BLOCKS_16_8, PERTURB),
            rows=(END_TO_END, *LOCAL_AND_NTK, *RANDOM),
            fixed={"width": 1, "target": "global"},
            above=1,
        ),
        Layout(
            number=8,
            title="Global target, Wide ResNet-18 in 16 blocks, on CIFAR-10",
            corner=(("Width factor k", "Guesses"),),
            columns=_cross(WIDTHS, PERTURB),
            rows=(END_TO_END, *LOCAL_AND_NTK, *_random("Random, Gaussian", "Random, Rademacher", aux="")),
            fixed={"data": "cifar10", "blocks": 16, "target": "global"},
            above=1,
        ),
        Layout(
            number=9,
            title="Local target, on Fashion-MNIST, CIFAR-100 and Imagenette",
            corner=(("Dataset", "", ""), ("Model", "", "Local auxiliary")),
            columns=_cross(BLOCKS_16_8, AUX, PERTURB),
            rows=_cross(
                (*FASHION, *CIFAR_100, *IMAGENETTE), (LOCAL_LEARNING, *_random("Gaussian Guess", "Radem. Guess"))
            ),
            fixed={"width": 1, "target": "local"},
        ),
        Layout(
            number=10,
            title="Local target, Wide ResNet-18 in 16 blocks, on CIFAR-10",
            corner=(("Width", ""), ("Local auxiliary", "")),
            columns=_cross(AUX, PERTURB),
            rows=_cross(WIDTHS, LOCAL_TARGET),
            fixed={"data": "cifar10", "blocks": 16, "target": "local"},
        ),
        Layout(
            number=11,
            title="Fixed NTK guess of the global target, on CIFAR-10",
            corner=(("Model", "Gradient Guesses"),),
            columns=_cross(BLOCKS_8_16, PERTURB),
            rows=(
                *_with_aux("Fixed NTK", "fixed_ntk"),
                *(
                    _row(f"Local learning, fixed {aux.words[0]}", target="local", perturb="weight", **fixed.parts)
                    for aux, fixed in zip(AUX, _with_aux("", "fixed_ntk"))
                ),
            ),
            fixed={**_CIFAR10_WIDTH_1, "target": "global"},
        ),
        Layout(
            number=12,
            title="Predsim auxiliary loss, on CIFAR-10",
            corner=(("Model", ""), ("", "")),
            columns=_cross(BLOCKS_8_16, PERTURB),
            rows=(
                *_cross(
                    _level("target", {"Global Target": "global"}),
                    (_row("Local Guess", guess="local"), _row("NTK Guess", guess="ntk")),
                ),
                *_cross(_level("target", {"Local Target": "local"}), LOCAL_TARGET),
            ),
            fixed={**_CIFAR10_WIDTH_1, "aux": "predsim"},
        ),
    )
}
