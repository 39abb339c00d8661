"""What a command line asks of a sweep."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from hydra.core.override_parser.types import Override

from fglight.config.settings import LOOKS, SWEEP_SETTINGS
from fglight.errors import ConfigError
from fglight.paper import TABLES
from fglight.paper.figures import FIGURES
from fglight.studies import STUDIES

FILTERS = ("target", "guess", "aux", "perturb", "model", "blocks")
"""What chooses among the cells of a table, with the values to keep."""

SEARCHES = ("lr", "aux_size")

_NEEDS = {
    "controls": "table=... or figure=...",
    "seeds": "table=..., figure=... or study=..., or name seeds of an ordinary sweep as in seed=0,1",
    "blocks": "table=..., figure=... or study=...",
}
"""What is to be added to settings that mean nothing in an ordinary sweep."""


@dataclass(frozen=True)
class Request:
    """A sweep as asked for.

    Attributes:
        tables: numbers of tables.
        figures: numbers of figures.
        search: ``lr``, ``aux_size``, or None.
        filters: for some of ``FILTERS``, the values to keep.
        data: data sets to keep, or to put in place of the paper's; empty for the paper's.
        seeds: the seeds of every cell; None for ``count`` of them.
        count: how many seeds of every cell; None for as many as the paper or the study has.
        settings: what is passed on to the runs, by name; each combination of their values is a run.
        plan: whether to show what would run and start nothing.
        studies: names of studies.
        controls: whether to run the controls of each network and data set, too.
    """

    tables: tuple[int, ...]
    figures: tuple[int, ...]
    search: str | None
    filters: Mapping[str, tuple[str, ...]]
    data: tuple[str, ...]
    seeds: tuple[int, ...] | None
    settings: Mapping[str, tuple[str, ...]]
    plan: bool
    studies: tuple[str, ...] = ()
    controls: bool = False
    count: int | None = None

    @property
    def words(self) -> str:
        """The request's tables, figures, studies and search, in words."""
        parts = [
            f"search={self.search}" if self.search else "",
            *(f"Table {number}" for number in self.tables),
            *(f"Figure {number}" for number in self.figures),
            *(f"study {name}" for name in self.studies),
        ]
        return ", ".join(part for part in parts if part)


def parse(overrides: Iterable[Override]) -> Request | None:
    """Read the overrides of a command line.

    Returns:
        What they ask for; None where no table, figure, study or search is named, for an ordinary sweep.

    Raises:
        ConfigError: a table, figure, study, search or number of seeds that does not exist, what is neither true nor
            false, or a setting that goes with tables, figures or studies alone.
    """
    values = {override.get_key_element(): _values(override) for override in overrides}
    given = {key: value for key, value in values.items() if value != ("null",)}
    plan, controls = _flag(given, "plan"), _flag(given, "controls")
    if not given.keys() & {"table", "figure", "study", "search"}:
        _refuse_alone(given)
        return None
    own = (*SWEEP_SETTINGS, *FILTERS, "data", "seed")
    request = Request(
        tables=tuple(map(int, _chosen(given, "table", [str(number) for number in TABLES]))),
        figures=tuple(map(int, _chosen(given, "figure", [str(number) for number in FIGURES]))),
        studies=_chosen(given, "study", list(STUDIES)),
        search=next(iter(_chosen(given, "search", SEARCHES, several=False)), None),
        filters={key: given[key] for key in FILTERS if key in given},
        data=values.get("data", ()),
        seeds=_seeds(values),
        count=_whole("seeds", ",".join(given["seeds"]), 1) if "seeds" in given else None,
        settings={key: value for key, value in values.items() if key not in own},
        plan=plan,
        controls=controls,
    )
    if request.search == "lr" and not (request.tables or request.figures or request.studies):
        raise ConfigError("search=lr needs cells to search for: add table=..., figure=... or study=...")
    if request.search == "aux_size" and (request.tables or request.figures or request.studies):
        raise ConfigError("search=aux_size has cells of its own: leave out table, figure and study")
    if request.controls and not (request.tables or request.figures):
        raise ConfigError("controls=true goes with table=... or figure=...: studies have controls among their rows")
    if request.studies and not request.search and (request.tables or request.figures):
        raise ConfigError(
            "study=... searches for learning rates first, tables have the paper's: leave out table and figure"
        )
    return request


def refuse_looks(overrides: Sequence[Override]) -> None:
    """Refuse to look at several runs, which would rather train.

    Raises:
        ConfigError: ``check=true`` or ``verify=true`` is given.
    """
    for setting in LOOKS:
        if asks(overrides, setting):
            raise ConfigError(f"{setting}=true looks at a single run: leave out -m")


def asks(overrides: Iterable[Override], setting: str) -> bool:
    """Whether overrides set a setting to true, such as ``plan``."""
    return any(override.key_or_group == setting and _is_true(_values(override)) for override in overrides)


def _is_true(values: Sequence[str]) -> bool:
    return bool(values) and values[0].lower() == "true"


def _flag(given: Mapping[str, tuple[str, ...]], key: str) -> bool:
    values = tuple(value.lower() for value in given.get(key, ()))
    return _is_true(_chosen({key: values}, key, ("true", "false"), several=False) if values else ())


def _refuse_alone(given: Mapping[str, tuple[str, ...]]) -> None:
    """Refuse what goes with tables, figures or studies in an ordinary sweep."""
    for key, needed in _NEEDS.items():
        value = ",".join(given.get(key, ("false",))).lower()
        if value != "false":
            raise ConfigError(f"{key}={value} belongs to a sweep of tables, figures or studies: add {needed}")


def _values(override: Override) -> tuple[str, ...]:
    if override.is_sweep_override():
        if not override.is_discrete_sweep():
            raise ConfigError(
                f"{override.key_or_group} must be values with commas between them, or add hydra/sweeper=optuna: "
                f"got {override.input_line}"
            )
        return tuple(override.sweep_string_iterator())
    return (override.get_value_element_as_str(),)


def _chosen(
    given: Mapping[str, tuple[str, ...]], key: str, known: Sequence[str], *, several: bool = True
) -> tuple[str, ...]:
    """The values of a setting, each once and of those that are known."""
    values = given.get(key, ())
    if several and values == ("all",):
        return tuple(known)
    wrong = [value for value in values if value not in known]
    if wrong or (len(values) > 1 and not several):
        more = " (several with commas), or all" if several else ""
        raise ConfigError(f"{key} must be {' or '.join(known)}{more}, got {','.join(wrong or values)}")
    return tuple(dict.fromkeys(values))


def _seeds(given: Mapping[str, tuple[str, ...]]) -> tuple[int, ...] | None:
    if "seed" not in given:
        return None
    if given.get("seeds", ("null",)) != ("null",):
        raise ConfigError("seed and seeds exclude each other: seed=0,1 names them, seeds=2 counts them")
    return tuple(_whole("seed", value, 0) for value in given["seed"])


def _whole(key: str, value: str, minimum: int) -> int:
    if not value.isdecimal() or int(value) < minimum:
        raise ConfigError(f"{key} must be a whole number from {minimum} on, got {value}")
    return int(value)
