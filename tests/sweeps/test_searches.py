"""What the searches found, from results that are made up."""

import io
from collections.abc import Callable
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser
from rich.console import Console
from rich.table import Table

from fglight import load_config
from fglight.runs.folder import write_json
from fglight.sweeps.jobs import Job, plan_jobs
from fglight.sweeps.request import parse
from fglight.sweeps.searches import aux_table, lr_table


def ended(folder: Path, accuracy: Callable[[Job], float], *overrides: str) -> list[Job]:
    """The runs of a sweep, with results."""
    jobs = plan_jobs(parse(OverridesParser.create().parse_overrides(list(overrides))))
    for job in jobs:
        (folder / job.folder).mkdir(parents=True)
        write_json(folder / job.folder / "result.json", {"metric": "accuracy", "test_accuracy": accuracy(job)})
    return jobs


def lines(table: Table) -> list[dict[str, str]]:
    """The rows of a table by the names of its columns."""
    columns = [list(column.cells) for column in table.columns]
    return [dict(zip((str(column.header) for column in table.columns), cells)) for cells in zip(*columns)]


def rate_and_step(job: Job) -> tuple[float, float]:
    settings = dict(job.settings)
    return float(settings["optim.lr"]), float(settings["scheduler.step_size"])


def test_both_axes_the_best_point_and_the_paper_s_are_shown(tmp_path):
    def accuracy(job: Job) -> float:
        rate, step = rate_and_step(job)
        return rate + step / 1000 + (0.5 if (rate, step) == (0.001, 30) else 0) + job.seed / 100

    jobs = ended(tmp_path, accuracy, "search=lr", "table=2", "guess=exact", "data=imagenet32", "seeds=2")
    twenty, thirty = lines(lr_table(jobs, tmp_path))
    assert list(twenty) == ["cell", "step", "0.1", "0.05", "0.01", "0.005", "0.001", "0.0001", "best", "paper's"]
    assert (twenty["cell"], twenty["step"], twenty["best"], twenty["paper's"]) == (
        "imagenet32-16b-global-exact",
        "20",
        "0.001, 30",
        "0.05, 20",
    )
    assert (thirty["cell"], thirty["step"], thirty["best"]) == ("", "30", "")
    assert (twenty["0.1"], thirty["0.1"], thirty["0.001"]) == ("12.5", "13.5", "53.6")  # means over two seeds


def test_the_paper_s_step_is_shrunk_as_the_runs_are(tmp_path):
    short = ("search=lr", "table=2", "guess=exact", "data=imagenet32", "trainer.max_epochs=35")
    first, second = lines(lr_table(ended(tmp_path, lambda job: sum(rate_and_step(job)), *short), tmp_path))
    assert (first["step"], second["step"], first["paper's"], first["best"]) == ("10", "15", "0.05, 10", "0.1, 15")


def test_runs_that_differ_in_more_than_the_seed_are_rows_of_their_own(tmp_path):
    def accuracy(job: Job) -> float:
        settings = dict(job.settings)
        width = job.cell.width / 10
        return float(settings["optim.momentum"]) / 10 + (settings["data.augment"] == "True") / 2 + width

    changes = ("data.augment=true,false", "optim.momentum=0.9,0.8", "model.width=1,2", "data.batch_size=64")
    jobs = ended(tmp_path, accuracy, "search=lr", "table=3", "guess=exact", "data=cifar10", "optim.lr=0.1", *changes)
    found = {line["cell"]: line["0.1"] for line in lines(lr_table(jobs, tmp_path))}
    assert found == {
        f"cifar10-8b{width}-global-exact, data.augment={augment}, optim.momentum={momentum}": f"{accuracy:.1f}"
        for width, wide in (("", 10), ("w2", 20))
        for augment, more in (("True", 50), ("False", 0))
        for momentum, most in (("0.9", 9), ("0.8", 8))
        for accuracy in [wide + more + most]
    }


def test_a_study_s_rows_are_its_estimators_and_what_the_paper_lacks_has_no_choice_of_it(tmp_path):
    asked = ("search=lr", "study=guesses", "guess=exact,local", "aux=cnn,several", "data=cifar10", "model.width=0.5")
    table = lr_table(ended(tmp_path, lambda job: 0.5, *asked, "perturb=weight"), tmp_path)
    chosen = {line["cell"]: line["paper's"] for line in lines(table)}
    combined = {f"Local guess, all three, {how}, weight": "" for how in ("sum", "mean", "span", "max")}
    assert chosen == {"Local guess, CNN, weight": "0.05, 30", **combined}
    assert str(table.title).endswith("by learning rate and step: cifar10, model.width=0.5, data.holdout=0.1")
    moved = lines(lr_table(ended(tmp_path, lambda job: 0.5, "search=lr", "table=3", "data=digits"), tmp_path))
    assert {line["paper's"] for line in moved} == {""}


def test_cells_are_told_in_full_on_a_narrow_terminal(tmp_path):
    jobs = ended(tmp_path, lambda job: 0.5, "search=lr", "table=3", "guess=local", "data=cifar10", "seeds=1")
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(lr_table(jobs, tmp_path))
    printed = console.export_text()
    assert "…" not in printed
    cells = "".join(line[1:].partition("│")[0].strip() for line in printed.splitlines() if line.startswith("│"))
    for job in jobs:
        assert str(job.cell) in cells


def test_the_best_size_is_one_that_costs_little_and_other_settings_are_told(tmp_path):
    sizes = ("search=aux_size", "aux=cnn", "aux.depth=3", "aux.hidden=8,32,512", "optim.momentum=0.9,0.8")

    def accuracy(job: Job) -> float:
        settings = dict(job.settings)
        return int(settings["aux.hidden"]) / 1000 + float(settings["optim.momentum"]) / 10

    jobs = ended(tmp_path, accuracy, *sizes)
    found = lines(aux_table(jobs, tmp_path, {job.name: load_config(job.overrides) for job in jobs}))
    assert [(line["cell"], line["hidden"], line["accuracy %"], line[""]) for line in found] == [
        (f"cifar10-8b-local-exact-cnn, optim.momentum={momentum}", hidden, f"{accuracy:.1f}", mark)
        for momentum, more in (("0.9", 9), ("0.8", 8))
        for hidden, accuracy, mark in (
            ("512", 51.2 + more, ""),
            ("32", 3.2 + more, "best under 10%"),
            ("8", 0.8 + more, ""),
        )
    ]
