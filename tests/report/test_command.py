"""The command line of the report and the files that it writes, on synthetic run directories."""

import re
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from written_runs import LOCAL, curves, result, write_metrics, write_run

import fglight.paper
import fglight.report
from fglight.paper import TABLES
from fglight.report.command import main


@pytest.fixture
def runs(tmp_path):
    """A sweep in the middle: complete, scaled down, unfinished, failed and damaged."""
    root = tmp_path / "multirun"
    for seed, accuracy in enumerate((0.915, 0.92, 0.925)):
        write_metrics(write_run(root / f"full{seed}", result(LOCAL, accuracy, seed)), curves(8, 4, seed))
    write_run(root / "scaled", result(replace(LOCAL, perturb="activity"), 0.5, settings={"aux.hidden": 8}))
    write_run(root / "unprinted", result(replace(LOCAL, guess="gaussian", aux=""), 0.5))
    write_metrics(write_run(root / "unfinished"), curves(8, 2))
    write_run(root / "failed", {"error": "CUDA <out> of | memory"}, "failure.json")
    (write_run(root / "damaged") / "result.json").write_text("{")
    return root


def contents(out):
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in out.rglob("*") if path.is_file()}


def test_a_report_is_written_at_any_stage_of_a_sweep(runs, tmp_path, capsys):
    out = tmp_path / "new/report"
    assert main([str(runs), "--out", str(out), "--table", "3", "2", "--figure", "3", "4"]) == 0
    assert set(contents(out)) == {
        "index.html",
        "tables.md",
        "tables.tex",
        "tables.csv",
        "figures/figure3.png",
        "figures/figure3.pdf",
    }
    said = capsys.readouterr().out
    assert "5 runs finished (4 at full scale, 1 scaled down), 1 unfinished, 1 failed" in said
    assert "table 3: 2 of 34 cells at full scale" in said
    assert "scaled down, cifar10, 100 epochs, aux.hidden 8: 1 cell, 1 seed; claims: holds 0 times, does not" in said
    assert "figure 4: not drawn; missing: CNN: run without train/local_loss/block0; MLP: not run" in said
    assert f"skipped: {runs / 'damaged/result.json'}: not valid JSON" in said
    page = (out / "index.html").read_text()
    for words in (
        "92.0 ± 0.5",
        "paper 92.0 ± 0.3",
        "≈ +0.0 [−1.0, 1.0]",
        "CUDA &lt;out&gt; of | memory",
        "not valid JSON",
    ):
        assert words in page
    assert "Scaled down: cifar10, 100 epochs, aux.hidden 8</h2>" in page
    ((_, unprinted),) = re.findall(r'<td class="(alone)"(.*?)</td>', page, re.DOTALL)
    assert "not printed" in unprinted
    assert not re.search("difference|paper [0-9]", unprinted)
    assert "CUDA <out>" not in page
    assert not re.search(r"(src|href)=[\"'](?!#|data:|figures/)", page)


def test_markdown_has_ours_the_difference_and_the_papers(runs, tmp_path):
    assert main([str(runs), "--out", str(tmp_path / "report"), "--table", "3"]) == 0
    lines = (tmp_path / "report/tables.md").read_text().splitlines()
    header = lines.index("| Dataset | CIFAR-10 | CIFAR-10 | ImageNet32 | ImageNet32 |")
    assert lines[header + 1] == "| --- | :-: | :-: | :-: | :-: |"
    assert lines[header + 2] == "| End-to-End | not run [94.5 ± 0.2] | ← | not run [54.6] | ← |"
    assert lines[header + 3] == "| **Guess** | **Activ.** | **Weight** | **Activ.** | **Weight** |"
    assert lines[header + 4] == (
        "| Local, CNN | not run [90.4 ± 0.2] | **92.0 ± 0.5** (3) ≈ +0.0 [−1.0, 1.0] [92.0 ± 0.3] "
        "| not run [33.1] | not run [38.3] |"
    )
    assert lines[header + 10] == (
        "| Gaussian | not run [not printed] | **50.0** (1) [not printed] | not run [not printed] "
        "| not run [not printed] |"
    )
    scaled = lines.index("## Scaled down: cifar10, 100 epochs, aux.hidden 8")
    assert lines[scaled + 4 :][:3] == ["| guess | activity |", "| --- | :-: |", "| local | 50.0 (1) |"]
    assert "5 runs finished (4 at full scale, 1 scaled down, 3 seeds)," in lines
    assert "1 file skipped. Of the paper's 462 cells, 1 at full scale." in lines
    assert "- `" + str(runs / "failed") + "` (): CUDA &lt;out&gt; of \\| memory" in lines


def test_everything_is_in_a_report_of_no_runs(tmp_path, monkeypatch):
    (tmp_path / "outputs").mkdir()
    monkeypatch.chdir(tmp_path)
    assert main([]) == 0
    frame = pd.read_csv("report/tables.csv", keep_default_na=False)
    assert (len(frame), set(frame["status"])) == (476, {"missing"})
    page = (tmp_path / "report/index.html").read_text()
    assert all(f'id="table{number}"' in page for number in TABLES)
    assert page.count("Not drawn") == 8


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["nowhere"], "No folder of runs at 'nowhere'."),
        ([], "neither multirun nor outputs is here"),
        ([".", "--table", "13"], "--table must be 2 to 12, got 13."),
        ([".", "--table", "3", "1"], "--table must be 2 to 12, got 1."),
        ([".", "--figure", "10"], "--figure must be 2 to 9, got 10."),
        ([".", "--out", "file"], "--out must be a folder, got 'file'"),
        ([".", "--out", "file/report"], "Cannot write the report to 'file/report'"),
        ([".", "--out", "mine"], "--out must hold nothing but a report, got 'mine', which holds 'notes.txt'"),
    ],
)
def test_a_mistake_is_one_clear_error_and_writes_nothing(tmp_path, monkeypatch, capsys, arguments, error):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("kept")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/notes.txt").write_text("kept")
    before = contents(tmp_path)
    assert main(arguments) == 1
    said = capsys.readouterr()
    assert error in said.err
    assert said.err.count("\n") == 1
    assert contents(tmp_path) == before


@pytest.mark.parametrize("package", [fglight.paper, fglight.report])
def test_reports_import_no_training_code(package):
    sources = list(Path(package.__file__).parent.glob("*.py"))
    assert sources
    forbidden = (
        r"^\s*(from|import) (torch|lightning|wandb|hydra|fglight\.(config|data|estimators|models|module|training))\b"
    )
    for source in sources:
        assert not re.search(forbidden, source.read_text(), re.MULTILINE), source
