"""What would be created on Weights & Biases; nothing here goes online."""

import pytest

from fglight.paper import TABLES, rows
from fglight.paper.figures import FIGURES

workspace = pytest.importorskip("fglight.report.workspace")


def metrics(made):
    """Every metric that a panel of a workspace shows."""
    names = set()
    for section in made.sections:
        for panel in section.panels:
            names |= {getattr(metric, "name", metric) for metric in getattr(panel, "y", None) or panel.metrics}
    return names


def admits(made, cell):
    """Whether a workspace's filter, an expression such as ``Config("cell.blocks") in [8]``, admits a cell."""
    names = {"Config": lambda name: getattr(cell, name.removeprefix("cell.")), "__builtins__": {}}
    return eval(made.runset_settings.filters, names)


@pytest.mark.parametrize("number", TABLES)
def test_a_table_shows_its_own_cells(number):
    made = workspace.table_workspace("us", "fglight", number)
    assert all(admits(made, row.cell) for row in rows() if row.table == number)
    others = [row.cell for row in rows() if row.table != number]
    assert not all(admits(made, cell) for cell in others)
    assert {"test/accuracy", "train/loss", "test/loss"} <= metrics(made)


@pytest.mark.parametrize("number", FIGURES)
def test_a_figure_shows_what_the_paper_draws(number):
    figure = FIGURES[number]
    made = workspace.figure_workspace("us", "fglight", number)
    assert all(admits(made, curve.cell) for curve in figure.curves)
    if number in (2, 7):
        expected = {f"train/local_loss/block{j}" for j in range(figure.curves[0].cell.blocks - 1)} | {"train/loss"}
    elif number in (3, 6):
        expected = {"train/loss", "test/loss"}
    else:
        names = ("cosine", "train/local_loss", "test/local_loss")
        expected = {f"{name}/block{j}" for name in names for j in figure.blocks}
    assert metrics(made) == expected


def test_what_is_sent_is_a_complete_view():
    """The client's own model of a saved view takes it."""
    view = workspace.table_workspace("us", "fglight", 3)._to_model()
    assert view.project == "fglight"
    assert view.display_name == "fglight: Table 3"
    assert "cell.value.guess" in view.model_dump_json()


def test_dry_run_lists_all_and_saves_nothing(capsys, monkeypatch):
    monkeypatch.setattr(workspace.ws.Workspace, "save", lambda self: pytest.fail("a dry run saved a workspace"))
    assert workspace.main(["--entity", "us", "--dry-run"]) == 0
    assert len(capsys.readouterr().out.strip().splitlines()) == len(TABLES) + len(FIGURES)


def test_a_refusal_is_told(capsys, monkeypatch):
    def refuse(self):
        raise ConnectionError("no network")

    monkeypatch.setattr(workspace.ws.Workspace, "save", refuse)
    assert workspace.main(["--entity", "us", "--table", "3"]) == 1
    assert "no network" in capsys.readouterr().err
