"""Saved workspaces on Weights & Biases: one for each table and figure of the paper.

fglight workspace --entity ENTITY [--project fglight] [--table N ...] [--figure N ...] [--dry-run]

A workspace shows the runs whose cell belongs to the table or figure, whichever sweep made them, grouped by cell.
"""

import argparse
import sys
from collections.abc import Sequence

import wandb_workspaces.reports.v2 as panels
import wandb_workspaces.workspaces as ws

from fglight.cell import Cell
from fglight.log_names import ACCURACY, of_split
from fglight.paper import TABLES, rows
from fglight.paper.figures import FIGURES, Panel

COMPONENTS = ("data", "blocks", "width", "target", "guess", "aux", "perturb")
"""What a cell consists of; each is ``cell.<component>`` in a run's configuration."""

_EPOCH = "epoch"


def table_workspace(entity: str, project: str, number: int) -> ws.Workspace:
    """The runs of a table of the paper: test accuracy by cell, then how training went.

    Args:
        entity: user or team that owns the project.
        project: on Weights & Biases.
        number: of the table, 2 to 12.
    """
    cells = [row.cell for row in rows() if row.table == number]
    accuracy = [
        panels.BarPlot(
            title=f"Test accuracy by {component}",
            metrics=[panels.SummaryMetric(ACCURACY)],
            groupby=panels.Config(f"cell.{component}"),
            title_x="test accuracy after the last epoch",
        )
        for component in _varying(cells)
    ]
    sections = [
        ws.Section(name=f"Table {number}", is_open=True, panels=accuracy),
        ws.Section(name="Training", panels=[_curve("Loss", "loss"), _curve("Accuracy", "accuracy")]),
    ]
    return _workspace(entity, project, f"Table {number}", cells, sections)


def figure_workspace(entity: str, project: str, number: int) -> ws.Workspace:
    """The runs of a figure of the paper, with what the figure shows.

    Args:
        entity: user or team that owns the project.
        project: on Weights & Biases.
        number: of the figure, 2 to 9.
    """
    figure = FIGURES[number]
    cells = [curve.cell for curve in figure.curves]
    drawn = [_drawn(panel) for row in figure.panels for panel in row]
    sections = [ws.Section(name=f"Figure {number}: {figure.title}", is_open=True, panels=drawn)]
    return _workspace(entity, project, f"Figure {number}", cells, sections)


def _drawn(panel: Panel) -> panels.BarPlot | panels.LinePlot:
    title = f"{panel.title}: {panel.y}" if panel.title else panel.y
    if panel.x == "Block":
        return panels.BarPlot(title=title, metrics=list(map(panels.SummaryMetric, panel.metrics)), title_x=panel.y)
    return panels.LinePlot(title=title, x=_EPOCH, y=list(panel.metrics), title_x="epoch", title_y=panel.y)


def _curve(title: str, metric: str) -> panels.LinePlot:
    return panels.LinePlot(
        title=title, x=_EPOCH, y=[of_split(split, metric) for split in ("train", "test")], title_x="epoch"
    )


def _varying(cells: Sequence[Cell]) -> list[str]:
    return [component for component in COMPONENTS if len({getattr(cell, component) for cell in cells}) > 1]


def _workspace(entity: str, project: str, name: str, cells: Sequence[Cell], sections: list[ws.Section]) -> ws.Workspace:
    filters = [
        ws.Config(f"cell.{component}").isin(sorted({getattr(cell, component) for cell in cells}))
        for component in COMPONENTS
    ]
    groups = [ws.Config(f"cell.{component}") for component in _varying(cells)]
    return ws.Workspace(
        entity=entity,
        project=project,
        name=f"fglight: {name}",
        sections=sections,
        runset_settings=ws.RunsetSettings(filters=ws.And(*filters), groupby=groups),
    )


def main(arguments: Sequence[str]) -> int:
    """Make the workspaces that the command line asks for, and print their addresses; returns the exit status."""
    parser = argparse.ArgumentParser(prog="fglight workspace", description="Save workspaces on Weights & Biases.")
    parser.add_argument("--entity", required=True, help="user or team that owns the project")
    parser.add_argument("--project", default="fglight")
    parser.add_argument("--table", type=int, nargs="*", choices=TABLES, help="default: all")
    parser.add_argument("--figure", type=int, nargs="*", choices=sorted(FIGURES), help="default: all")
    parser.add_argument("--dry-run", action="store_true", help="only list what would be made")
    asked = parser.parse_args(arguments)
    everything = asked.table is None and asked.figure is None
    tables = TABLES if everything else asked.table or ()
    figures = FIGURES if everything else asked.figure or ()
    workspaces = [table_workspace(asked.entity, asked.project, number) for number in tables]
    workspaces += [figure_workspace(asked.entity, asked.project, number) for number in figures]
    for workspace in workspaces:
        shown = ", ".join(str(panel.title) for section in workspace.sections for panel in section.panels)
        try:
            print(f"{workspace.name}: {shown if asked.dry_run else workspace.save().url}")
        except Exception as error:  # whatever the service or its client says, there is nothing else to try
            print(f"{workspace.name} was not saved: {error}", file=sys.stderr)
            return 1
    return 0
