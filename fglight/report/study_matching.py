"""Which row of a study a run belongs to, and at which scale it was trained."""

from functools import cache
from math import isclose

from omegaconf import OmegaConf

from fglight.paper.recipes import nearest, recipe
from fglight.report.scores import Setting
from fglight.runs.collect import Run
from fglight.runs.settings import OF_COST, differences, in_short, settings_of, within
from fglight.studies import STUDIES, Row, Study

CHOSEN = ("optim.lr", "data.holdout")
"""Settings in which runs of an estimator differ that belong together: the search's, and those after it."""

TOLD = ("trainer.max_epochs", "scheduler.step_size")
"""Settings that a scale tells in other words."""


def searched(run: Run) -> bool:
    """Whether a run is judged on images held out, for a search."""
    return "data.holdout" in run.differences


def row_of(study: Study, run: Run) -> Row | None:
    """The row that a run belongs to: of those that it has all the settings of, the one with most."""
    cell = run.cell
    parts = (cell.target, cell.guess, cell.aux, cell.perturb)
    if (cell.network, run.metric) != ("resnet18", "accuracy"):
        return None
    alike = [row for row in study.rows if parts == _parts(row) and _settings(row).items() <= _hashable(run).items()]
    return max(alike, key=lambda row: len(_settings(row)), default=None)


def told_better(row: Row, run: Run) -> bool:
    """Whether a row of any study has more of the settings that a run's result is of than the one that it is in."""
    others = (row_of(study, run) for study in STUDIES.values())
    return any(other and len(_settings(other).keys() - OF_COST) > len(_settings(row)) for other in others)


def scale_of(row: Row, run: Run) -> Setting:
    """What sets a run apart, its row and its learning rate aside."""
    rest = {name: value for name, value in run.differences.items() if name not in _settings(row)}
    told = {name: str(value) for name, value in in_short(rest).items() if not within(name, (*CHOSEN, *TOLD, *OF_COST))}
    told |= {"data": run.cell.data, "epochs": f"{run.recipe['epochs']:g}"}
    if run.cell.blocks != row.cell("").blocks:
        told["blocks"] = str(run.cell.blocks)
    if run.cell.width != 1:
        told["width"] = f"{run.cell.width:g}"
    paper = recipe(nearest(run.cell, random=False))
    shrunk = max(1, round(paper.lr_step * run.recipe["epochs"] / paper.epochs))
    if not isclose(run.recipe.get("lr_step", shrunk), shrunk):
        told["lr_step"] = f"{run.recipe['lr_step']:g}"
    if run.epoch + 1 < run.recipe["epochs"]:
        told["stopped after epoch"] = str(run.epoch + 1)
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


def _hashable(run: Run) -> dict[str, str]:
    return {name: str(value) for name, value in run.differences.items()}
