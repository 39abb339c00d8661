"""Studies are files, those of the package and a user's own."""

import pytest
from forked import train_py

from fglight.errors import ConfigError
from fglight.report.command import main as report
from fglight.studies import RATES, STUDIES, Row, add_studies
from fglight.studies.study import read_study

OWN = """
title: Mine
question: Does it work?
rates: [0.5, 0.025]
over: [derivatives]
rows:
  Backpropagation: guess=exact
  Gaussian:
    one: guess=gaussian perturb=weight
    four: guess=gaussian perturb=weight guess.directions=4
"""


def test_the_package_s_studies_are_files_of_conf():
    assert {"budget", "continuum", "controls", "feedback", "guesses"} <= STUDIES.keys()
    assert all(study.name == name for name, study in STUDIES.items())
    assert STUDIES["guesses"].rates == RATES
    feedback = STUDIES["feedback"]
    assert (feedback.holdout, feedback.settings["data.train_images"], feedback.seeds) == ("0.2", "5120", 8)


@pytest.fixture
def folder(tmp_path):
    """A folder of configurations with a study."""
    file = tmp_path / "my_conf" / "study" / "mine.yaml"
    file.parent.mkdir(parents=True)
    file.write_text(OWN)
    yield tmp_path / "my_conf"
    STUDIES.pop("mine", None)


def test_a_study_of_ones_own_is_a_file_of_a_folder_of_configurations(folder):
    add_studies(folder)
    study = STUDIES["mine"]
    assert study.rows == (
        Row("Backpropagation", "guess=exact"),
        Row("one", "guess=gaussian perturb=weight", line="Gaussian"),
        Row("four", "guess=gaussian perturb=weight guess.directions=4", line="Gaussian"),
    )
    assert (study.title, study.seeds, study.rates, study.over) == ("Mine", 3, ("0.5", "0.025"), ("derivatives",))


def test_it_is_planned_and_reported_as_the_package_s_are(folder, capsys, monkeypatch):
    done = train_py(folder.parent, "-m", "--config-dir", "my_conf", "study=mine", "model.width=0.0625", "plan=true")
    assert done.returncode == 0, done.stderr
    lines = [line.split("│")[1].strip() for line in done.stdout.splitlines() if " new" in line]
    names = ["Backpropagation", "one", "four"]
    assert lines == [name for name in names for _ in range(2)] + names  # at each rate, and then with all seeds
    monkeypatch.chdir(folder.parent)
    (folder.parent / "runs").mkdir()
    assert report(["runs", "--config-dir", "my_conf", "--study", "mine"]) == 0
    assert "study mine: of 3 estimators, none was run" in capsys.readouterr().out
    assert train_py(folder.parent, "study=mine").stderr.startswith("study=mine belongs to a sweep")


@pytest.mark.parametrize(
    ("said", "instead", "told"),
    [
        ("title: Mine", "", "mine.title must be given"),
        ("rates:", "seed: 2\nrates:", "mine.seed must be one of title, question, rows, data, seeds, "),
        ("rates:", "seeds: 0\nrates:", "mine.seeds must be a whole number from 1 on, got 0"),
        ("[0.5, 0.025]", "[0.5, -1]", r"mine.rates must be a list of learning rates above 0, got \[0.5, -1\]"),
        ("[derivatives]", "[time]", "mine.over must be a list of derivatives, forward_mode, .* and seconds, got"),
        ("guess=exact", "exact", "mine.rows must be names of estimators with overrides, one of them guess=..., by"),
        (OWN, "- 1", r"mine.yaml must have a title, a question and rows, got \[1\]"),
        ("title: Mine", "title: [", "mine.yaml cannot be read: "),
    ],
)
def test_what_is_no_study_is_told_in_a_line(said, instead, told, tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text(OWN.replace(said, instead))
    with pytest.raises(ConfigError, match=told) as error:
        read_study(file)
    assert "\n" not in str(error.value)
    with pytest.raises(ConfigError, match=r"--config-dir must be a folder, got .*mine\.yaml"):
        add_studies(file)
