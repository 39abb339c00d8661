"""What the documentation says can be run."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
from forked import PROCESSES, ROOT, ended, redirect
from image_files import write_image_folder
from text_files import rows, write_csv, write_network, write_texts
from transformers import BertConfig, BertForSequenceClassification

from fglight import build_model, evaluate, export, load_config, train
from fglight.autodiff.layers.kinds import KINDS
from fglight.build import build_estimator
from fglight.config import check_config
from fglight.config.settings import check_overrides
from fglight.report import command as report
from fglight.sweeps.jobs import plan_jobs

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
PAGES += sorted((ROOT / "docs/reference").glob("*.md"))
MIGRATING = (ROOT / "docs/migrating.md").read_text()
SETTINGS = sorted(set(re.findall(r"(?<=`)[a-z][\w.]*=[^`]*(?=`)", MIGRATING)))
"""Those of this package: the flags of the authors' code begin with dashes."""


def blocks(page: Path) -> list[tuple[str, str]]:
    """The blocks of code of a page, each with its language."""
    return re.findall(r"^```(\w+)\n(.*?)^```$", page.read_text(), re.DOTALL | re.MULTILINE)


def commands() -> dict[Path, list[str]]:
    """The commands of every page that are on no page before it, without what is said of them."""
    seen: set[str] = set()
    found: dict[Path, list[str]] = {page: [] for page in PAGES}
    for page in PAGES:
        for line in "".join(code for language, code in blocks(page) if language == "bash").splitlines():
            command = shlex.join(shlex.split(line, comments=True))
            if command and command not in seen:
                seen.add(command)
                found[page].append(command)
    return found


def on_pages(found: dict[Path, list[str]], slow: bool = False) -> pytest.MarkDecorator:
    """A test for every page, of what is found there; where it is slow, only the README's is not marked so."""
    cases = [
        pytest.param(
            page, texts, id=str(page.relative_to(ROOT)), marks=[pytest.mark.slow] * (slow and page != PAGES[0])
        )
        for page, texts in found.items()
        if texts
    ]
    return pytest.mark.parametrize(("page", "texts"), cases)


def write_files(page: Path, folder: Path) -> None:
    """Write the blocks of a page that begin with the name of a file."""
    for _, code in blocks(page):
        if name := re.match(r"# (\S+\.\w+)\n", code):
            (folder / name[1]).parent.mkdir(parents=True, exist_ok=True)
            (folder / name[1]).write_text(code)


@on_pages({page: [code for language, code in blocks(page) if language == "python"] for page in PAGES})
def test_the_code_of_a_page_runs(page, texts, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {"__name__": "page"}
    with patch.dict(KINDS):  # a page adds a kind of layers
        for code in texts:
            exec(code, names)
            for expression, printed in re.findall(r"^print\((.*)\)  # (.*)$", code, re.MULTILINE):
                assert str(eval(expression, names)) == printed


@on_pages(commands(), slow=True)
def test_the_commands_of_a_page_are_accepted(page, texts, tmp_path):
    folder = tmp_path / "here"
    folder.mkdir()
    write_files(page, folder)
    write_image_folder(folder / "pets")
    write_texts(folder / "reviews")
    write_csv(folder / "reviews.csv", rows(40), ("review", "stars"))
    bert = BertConfig.from_pretrained(write_network(folder / "bert"))
    BertForSequenceClassification(bert).save_pretrained(folder / "bert")
    (folder / "examples").symlink_to(ROOT / "examples")
    process = PROCESSES.Process(target=try_commands, args=(texts, folder))
    process.start()
    done = ended(process, folder)
    assert done.returncode == 0, done.stdout + done.stderr


def try_commands(texts: list[str], folder: Path) -> None:
    """Do what commands do until something would be trained, reported or saved."""
    redirect(folder)
    sys.path.append(str(folder))
    with (
        patch.object(train, "job", lambda cfg: (build(cfg), build_estimator(cfg))),
        patch("fglight.sweeps.runner.Sweep", Sweep),
        patch("fglight.sweeps.plan.show_ordinary"),
    ):
        for text in texts:
            print("$", text, flush=True)
            try_command(shlex.split(text))


def try_command(words: list[str]) -> None:
    match words:
        case ["pip" | "source", *_]:
            pass
        case ["make", *arguments]:
            plain = {name: value for name, value in os.environ.items() if name != "ARGS" and name[:4] != "MAKE"}
            command = ["make", "-n", *arguments]
            made = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, env=plain)
            for sweep in re.findall(r"train\.py (-m .*?); status", made.stdout):
                try_command(["fglight", "train", *shlex.split(sweep)])
        case ["python", "train.py", *arguments]:
            try_command(["fglight", "train", *arguments])
        case ["python", script, *_]:
            assert (ROOT / script).is_file(), script
        case ["fglight", "train", *arguments]:
            if any(word.startswith("hydra/sweeper=") for word in arguments):  # other sweepers have no plan
                check_overrides([word for word in arguments if "=" in word and not word.startswith("hydra")])
            elif "--help" not in arguments:
                if "-m" in arguments:  # a plan composes all runs, and starts none
                    arguments.insert(next(i for i, word in enumerate(arguments) if "=" in word), "plan=true")
                assert train.main(arguments) == 0
        case ["fglight", "show", *_]:
            pass
        case ["fglight", "report", *arguments]:
            report._parser().parse_args(arguments)
        case ["fglight", "eval", *arguments]:
            evaluate._parser().parse_intermixed_args(arguments)
            evaluate._check([text for text in arguments if "=" in text])
        case ["fglight", "export", *arguments]:
            export._parser().parse_args(arguments)
        case ["fglight", "workspace", *arguments]:
            from fglight.report import workspace  # takes seconds

            assert workspace.main([*arguments, "--dry-run"]) == 0
        case [command]:
            assert (ROOT / command).is_file(), command
        case _:
            raise AssertionError(f"what is {shlex.join(words)}?")


class Sweep:
    """Composes two of the runs that a sweep is asked for."""

    def __init__(self, request, folder, compose, jobs=None, **_):
        self.folder = folder
        self.jobs = jobs or plan_jobs(request)
        for job in (self.jobs[0], self.jobs[-1]):
            check_config(compose(job.overrides))

    def run(self):
        return 0


def build(cfg):
    with torch.device("meta"):
        return build_model(cfg)


def test_the_site_is_built_strictly_and_fetches_nothing(tmp_path):
    shutil.copy(ROOT / "zensical.toml", tmp_path)
    shutil.copytree(ROOT / "docs", tmp_path / "docs")
    (tmp_path / "fglight").symlink_to(ROOT / "fglight")
    built = subprocess.run(
        [sys.executable, "-m", "zensical", "build", "--strict"], cwd=tmp_path, capture_output=True, text=True
    )
    assert built.returncode == 0, built.stdout + built.stderr
    pages = {path.relative_to(tmp_path / "site").with_suffix(".md") for path in (tmp_path / "site").rglob("*.html")}
    assert {page.relative_to(ROOT / "docs") for page in PAGES[2:]} <= pages
    for path in (tmp_path / "site").rglob("*.html"):
        fetched = re.findall(r"<(?:script|link|img|iframe)[^>]* (?:src|href)=.?https?:[^ >]*", path.read_text())
        assert not fetched, path


def test_the_page_has_settings_for_every_group():
    groups = {setting.split("=")[0].split(".")[0] for words in SETTINGS for setting in words.split()}
    assert {"target", "guess", "perturb", "aux", "model", "data", "optim", "trainer", "logger", "seed"} <= groups


@pytest.mark.parametrize("words", SETTINGS)
def test_what_stands_for_a_flag_of_the_authors_code_is_accepted(words):
    overrides = words.split()
    data = [] if any(override.startswith("data=") for override in overrides) else ["data=cifar10"]
    cfg = load_config([*data, *overrides])
    assert len(build(cfg).blocks) == cfg.model.blocks
