"""Which row of a study a run belongs to, and at which scale it was trained."""

from functools import cache

from omegaconf import OmegaConf

from fglight.report.scores import Scale, described, with_width
from fglight.runs.collect import Run
from fglight.runs.settings import OF_COST, differences, settings_of
from fglight.studies import STUDIES, Row, Study

CHOSEN = ("optim.lr", "data.holdout")
"""Settings in which runs of an estimator differ that belong together: the search's, and those after it."""


def searched(run: Run) -> bool:
    """Whether a run is judged on images held out, for a search."""
    return "data.holdout" in run.differences


def row_of(study: Study, run: Run) -> Row | None:
    """The row that a run belongs to: of those that it has all the settings of, the one with most."""
    cell = run.cell
    parts = (cell.target, cell.guess, cell.aux, cell.perturb)
    if (cell.network, run.metric) != ("resnet18", "accuracy"):
        return None
    differing = {name: str(value) for name, value in run.differences.items()}.items()
    alike = [row for row in study.rows if parts == _parts(row) and _settings(row).items() <= differing]
    return max(alike, key=lambda row: len(_settings(row)), default=None)


def told_better(row: Row, run: Run) -> bool:
    """Whether a row of any study has more of the settings that a run's result is of than the one that it is in."""
    others = (row_of(study, run) for study in STUDIES.values())
    return any(other and len(_settings(other).keys() - OF_COST) > len(_settings(row)) for other in others)


def scale_in_study(row: Row, run: Run) -> Scale:
    """What a run was trained on and how, its row and its learning rate aside."""
    told = dict(with_width(described(run, {*_settings(row), *CHOSEN}), run.cell.width))
    if run.cell.blocks != row.cell("").blocks:
        told["blocks"] = str(run.cell.blocks)
    return tuple(sorted(told.items()))


def _parts(row: Row) -> tuple[str, ...]:
    cell = row.cell("digits")
    return cell.target, cell.guess, cell.aux, cell.perturb


@cache
def _settings(row: Row) -> dict[str, str]:
    """How a row's components depart from the paper's, as its runs record; those not in the paper are as they ship."""
    chosen = OmegaConf.from_dotlist([f"{name}={value}" for name, value in row.settings.items()])
    cfg = OmegaConf.merge(settings_of(row.cell("digits")), chosen)
    return {name: str(value) for name, value in differences(cfg).items()}
