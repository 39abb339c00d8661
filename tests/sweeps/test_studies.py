"""Studies: rates first, then seeds, whatever is missing. Runs are made up."""

from functools import partial
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobReturn, JobStatus

from fglight.cell import Cell
from fglight.config import check_config, compose
from fglight.errors import ConfigError
from fglight.runs.folder import write_json
from fglight.studies import RATES, SEARCH_SEEDS, STUDIES, Row
from fglight.sweeps.composing import Composer
from fglight.sweeps.jobs import plan_jobs
from fglight.sweeps.request import Request, parse
from fglight.sweeps.runner import Sweep
from fglight.sweeps.studies import run_study

COMPOSER = Composer(compose)
FEW = ("study=guesses", "guess=exact,frozen", "target=global", "model.width=0.0625", "trainer.max_epochs=1")
BEYOND = "0.003125"
DIVERGED, BROKEN = "NonFiniteLossError: at step 3", "RuntimeError: no memory"


def asked(*overrides: str) -> Request:
    request = parse(OverridesParser.create().parse_overrides(list(overrides)))
    assert request is not None
    return request


class Machine:
    """Does runs: on held-out images they end with what ``search`` says of guess and rate, on others with 0.8."""

    def __init__(self, folder: Path, search: dict[tuple[str, str], float | str]) -> None:
        self.folder = folder
        self.search = search
        self.done: list[tuple[str, str, bool, str]] = []

    def launch(self, batch, number):
        for overrides in batch:
            run = dict(override.split("=", 1) for override in overrides)
            guess, rate, held_out = run["guess"], run["optim.lr"], "data.holdout" in run
            self.done.append((guess, rate, held_out, run["seed"]))
            end = self.search.get((guess, rate), 0.1) if held_out else 0.8
            failed = isinstance(end, str)
            record = (
                {"error": end}
                if failed
                else {"metric": "accuracy", "test_accuracy": end, "test_loss": float(rate), "time_s": 1.0}
            )
            folder = self.folder / run["hydra.sweep.subdir"].strip("'")
            folder.mkdir(parents=True, exist_ok=True)
            write_json(folder / ("failure.json" if failed else "result.json"), record)
        return [JobReturn(status=JobStatus.COMPLETED) for _ in batch]

    def __call__(self, *overrides: str) -> list[tuple[str, str, bool, str]]:
        """Do what is missing of a study; guess, rate, whether on held-out images, and seed of each run."""
        self.done.clear()
        sweep = partial(Sweep, folder=self.folder, compose=COMPOSER, launch=self.launch, serial=True)
        self.failed, self.runs = run_study(asked(*overrides), self.folder, sweep)
        return list(self.done)


def search_of(*guesses: str, rates=RATES) -> list[tuple[str, str, bool, str]]:
    return [(guess, rate, True, str(seed)) for guess in guesses for rate in rates for seed in SEARCH_SEEDS]


def test_each_estimator_gets_the_rate_that_is_best_for_it_on_held_out_images(tmp_path):
    machine = Machine(tmp_path, {("exact", RATES[1]): 0.5, ("exact", RATES[2]): 0.4, ("frozen", RATES[3]): 0.3})
    seeds = [
        (guess, rate, False, str(seed))
        for guess, rate in (("exact", RATES[1]), ("frozen", RATES[3]))
        for seed in (2, 3)
    ]
    machine.search["frozen", BEYOND] = 0.2
    searched = [*search_of("exact", "frozen"), *search_of("frozen", rates=[BEYOND])]
    assert machine(*FEW, "seeds=2") == [*searched, *seeds]
    assert machine.runs == len(searched) + len(seeds)
    assert machine(*FEW, "seeds=2") == []
    assert machine(*FEW, "seeds=3") == [("exact", RATES[1], False, "4"), ("frozen", RATES[3], False, "4")]


def test_a_best_rate_at_the_edge_is_followed_for_two_rates_and_no_further(tmp_path):
    lower = [f"{float(RATES[-1]) / 4**steps:g}" for steps in (1, 2)]
    ever_better = {("exact", rate): 0.1 * step for step, rate in enumerate([*RATES, *lower])}
    machine = Machine(tmp_path, ever_better)
    done = machine(*FEW, "guess=exact", "seeds=1")
    assert done == [*search_of("exact", rates=[*RATES, *lower]), ("exact", lower[-1], False, "2")]
    machine = Machine(tmp_path / "diverging", {("exact", RATES[0]): 0.5, ("exact", "3.2"): DIVERGED})
    assert machine(*FEW, "guess=exact", "seeds=1")[-3:] == [
        *search_of("exact", rates=["3.2"]),
        ("exact", "0.8", False, "2"),
    ]


def test_a_seed_that_chooses_tells_nothing(tmp_path):
    machine = Machine(tmp_path, {})
    with pytest.raises(ConfigError, match=r"^seed must be from 2 on in a study, .* got 1,2$"):
        machine(*FEW, "seed=1,2")
    assert machine(*FEW, "seed=1,2", "optim.lr=0.1")[0] == ("exact", "0.1", False, "1")


def test_of_equal_accuracies_the_lower_loss_decides(tmp_path):
    machine = Machine(tmp_path, {("exact", rate): 0.5 for rate in RATES})
    assert machine(*FEW, "guess=exact", "seeds=1")[-1] == ("exact", RATES[-1], False, "2")


def test_a_rate_that_diverged_is_out_and_a_run_that_failed_is_done_again(tmp_path, capsys):
    machine = Machine(tmp_path, {("exact", RATES[0]): DIVERGED, ("exact", RATES[1]): 0.5, ("frozen", RATES[0]): BROKEN})
    done = machine(*FEW, "seeds=1")
    assert done == [*search_of("exact", "frozen"), ("exact", RATES[1], False, "2")]
    assert machine.failed == 2
    out = capsys.readouterr().out
    assert "2 diverged, 2 failed" in out
    assert "1 estimator without a learning rate yet: digits-8bw0.0625-global-frozen" in out
    machine.search["frozen", RATES[0]] = 0.9
    again, wider = (search_of("frozen", rates=[rate]) for rate in (RATES[0], "3.2"))
    assert machine(*FEW, "seeds=1") == [*again, *wider, ("frozen", RATES[0], False, "2")]
    assert machine.failed == 0


def test_a_rate_that_is_given_needs_no_search(tmp_path):
    machine = Machine(tmp_path, {})
    assert machine(*FEW, "seeds=1", "optim.lr=0.3") == [(guess, "0.3", False, "2") for guess in ("exact", "frozen")]
    assert machine.runs == 2
    assert machine(*FEW, "guess=exact", "seeds=1", "optim.lr=0.3,0.1")[-1] == ("exact", "0.1", False, "2")


@pytest.mark.parametrize(
    ("study", "table"),
    [
        ("study=budget guess=gaussian perturb=weight", "table=3 guess=gaussian perturb=weight"),
        ("study=budget guess=local aux=cnn perturb=activity", "table=3 guess=local aux=cnn perturb=activity"),
        ("study=controls guess=exact target=global", "table=3 guess=exact"),
    ],
)
def test_the_same_settings_are_the_same_folder_whatever_asks_for_them(study, table, tmp_path):
    """A study names settings that a table leaves at their defaults."""

    def folders(words):
        settings = ("data=digits", "seed=2", "optim.lr=0.1", "trainer.max_epochs=3")
        sweep = Sweep(asked(*words.split(), *settings), tmp_path, COMPOSER, pytest.fail, serial=True)
        return {job.folder for job in sweep.jobs}

    (of_table,) = folders(table)
    assert of_table in folders(study)


def test_what_cannot_be_is_told(tmp_path):
    for overrides, words in (
        (["study=nothing"], f"study must be {' or '.join(STUDIES)} .several with commas., or all, got nothing"),
        (["study=guesses", "table=3"], "leave out table and figure"),
        (["study=guesses", "controls=true"], "controls=true goes with table"),
        (["study=guesses", "search=aux_size"], "leave out table, figure and study"),
        ([*FEW, "data.holdout=0.2"], "data.holdout goes with search=lr"),
        ([*FEW, "guess=nothing"], "no cell of study guesses has .*guess=nothing: guess must be .*exact or "),
    ):
        with pytest.raises(ConfigError, match=words):
            Machine(tmp_path, {})(*overrides)


def test_controls_are_the_same_networks_frozen_and_by_local_learning_and_only_where_asked_for():
    asked_for = ("table=7", "guess=local", "aux=cnn", "seeds=1")
    tables = plan_jobs(asked(*asked_for))
    jobs = plan_jobs(asked(*asked_for, "controls=true"))
    assert jobs[: len(tables)] == tables
    networks = {(job.cell.data, job.cell.blocks, job.cell.width) for job in tables}
    controls = {(cell.target, cell.guess, cell.aux) for cell in (job.cell for job in jobs[len(tables) :])}
    learning = {("local", "exact", aux) for aux in ("cnn", "mlp", "linear")}
    assert controls == {("global", "exact", ""), ("global", "frozen", ""), *learning}
    assert len(jobs) == len(tables) + len(networks) * len(controls)
    assert {(job.cell.data, job.cell.blocks, job.cell.width) for job in jobs} == networks
    assert not any(dict(job.settings) for job in jobs)


@pytest.mark.parametrize("row", [row for study in STUDIES.values() for row in study.rows], ids=lambda row: row.label)
def test_a_row_names_what_it_uses_and_no_more(row: Row):
    cfg = COMPOSER(row.overrides.split())
    check_config(cfg)
    assert Cell.from_config(cfg) == row.cell("digits")


@pytest.mark.parametrize("study", STUDIES.values(), ids=lambda study: study.name)
def test_no_two_rows_of_a_study_are_alike(study):
    assert len({row.label for row in study.rows}) == len(study.rows)
    assert len({frozenset(row.chosen.items()) for row in study.rows}) == len(study.rows)


def test_every_guess_from_auxiliary_networks_has_local_learning_with_the_same_ones():
    study = STUDIES["guesses"]
    for row in study.rows:
        other = study.local_learning(row)
        assert (other is None) == (not row.cell("digits").aux or row.is_local_learning), row
        assert other is None or (other.auxiliaries, other.settings.keys() - other.auxiliaries) == (
            row.auxiliaries,
            set(),
        )
