"""Runs as one sorted table."""

from dataclasses import replace

import pytest
from written_runs import LOCAL, result, write_run

from fglight.report.show import main

ACTIVITY = replace(LOCAL, perturb="activity")


def write(folder, cell, accuracies, **settings):
    for seed, accuracy in enumerate(accuracies):
        ended = result(cell, accuracy, settings=settings) | {"seed": seed}
        write_run(folder / f"{cell}{sorted(settings)}{seed}", ended)


def shown(capsys, *words):
    assert main([str(word) for word in words]) == 0
    return capsys.readouterr().out.splitlines()


def rows(lines):
    return [[cell.strip() for cell in line.strip("│").split("│")] for line in lines if line.startswith("│")]


def test_seeds_share_a_row_and_the_best_comes_first(tmp_path, capsys):
    write(tmp_path / "a", LOCAL, [0.7, 0.72, 0.74])
    write(tmp_path / "b", ACTIVITY, [0.9])
    lines = shown(capsys, tmp_path / "a", tmp_path / "b")
    assert rows(lines) == [["activity", "1", "90.0 %", ""], ["weight", "3", "72.0 %", "[67.0, 77.0]"]]
    assert f"guess {LOCAL.guess}" in lines[0]
    assert lines[-1] == "4 finished runs"


def test_settings_that_differ_are_told(tmp_path, capsys):
    write(tmp_path, LOCAL, [0.5], **{"optim.momentum": 0.5})
    write(tmp_path, LOCAL, [0.6])
    (tmp_path / "begun").mkdir()
    write_run(tmp_path / "lost", {"cell": str(LOCAL), "error": "too hot"}, "failure.json")
    lines = shown(capsys, tmp_path)
    assert [row[0] for row in rows(lines)] == ["", "momentum=0.5"]
    assert lines[-1] == "2 finished runs, 1 failed"


@pytest.mark.parametrize(
    ("folder", "said"),
    [("nowhere", "FOLDER must be a folder with runs, got "), (".", "there must be a finished run below ")],
)
def test_where_there_is_nothing_to_show(folder, said, tmp_path, capsys):
    assert main([str(tmp_path / folder)]) == 1
    assert capsys.readouterr().err.startswith(f"error: {said}")
