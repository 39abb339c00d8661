"""What a sweep is asked to run, before filters and scaling."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from fglight.cell import Cell
from fglight.paper import rows, rows_by_cell
from fglight.paper.figures import FIGURES
from fglight.paper.grids import HOLDOUT, aux_sizes
from fglight.studies import SEARCH_SEEDS, STUDIES
from fglight.sweeps.request import Request


@dataclass(frozen=True)
class Entry:
    """A cell that a sweep is asked to run, before data set, width and length are scaled down.

    Attributes:
        cell: the cell.
        seeds: how many of them the paper ran, or the study has.
        group: of its runs on Weights & Biases.
        settings: beside the cell's own.
        rates: learning rates to search; none for the paper's.
        label: of the study's row that it is; empty for others.
        first: the first of the seeds.
        holdout: the fraction of the training images on which rates are searched.
        scale: settings that the command line may replace, as what it scales.
    """

    cell: Cell
    seeds: int
    group: str
    settings: Mapping[str, str] = field(default_factory=dict)
    rates: Sequence[str] = ()
    label: str = ""
    first: int = 0
    holdout: str = HOLDOUT
    scale: Mapping[str, str] = field(default_factory=dict)


def entries_of(request: Request) -> Iterator[Entry]:
    """The cells of a request's tables, figures, studies and search, in their order."""
    if request.search == "aux_size":
        for cell, settings in aux_sizes():
            yield Entry(cell, 1, "search-aux_size", settings)
    for row in rows():
        if row.table in request.tables:
            yield Entry(row.cell, row.seeds, f"table{row.table}")
    for number in request.figures:
        for curve in FIGURES[number].curves:
            probe = {"probe": "true", "aux": curve.probe} if curve.probe else {}
            yield Entry(curve.cell, rows_by_cell()[curve.cell].seeds, f"figure{number}", probe)
    for study in (STUDIES[name] for name in request.studies):
        for line in study.rows:
            yield Entry(
                line.cell(study.data),
                study.seeds,
                f"study-{study.name}",
                {"measure": "true", **line.settings},
                study.rates,
                line.label,
                len(SEARCH_SEEDS),
                study.holdout,
                study.settings,
            )


def with_controls(entries: Sequence[Entry]) -> list[Entry]:
    """The entries, and the controls of each network and data set among them, with as many seeds as these have."""
    seeds: dict[tuple[str, int, float], int] = {}
    for entry in entries:
        network = (entry.cell.data, entry.cell.blocks, entry.cell.width)
        seeds[network] = max(entry.seeds, seeds.get(network, 0))
    controls = [
        Entry(replace(row.cell(data), blocks=blocks, width=width), count, "controls", row.settings)
        for (data, blocks, width), count in seeds.items()
        for row in STUDIES["controls"].rows
    ]
    return [*entries, *controls]
