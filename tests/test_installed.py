"""The package as its users get it: a wheel in an environment of its own, in folders that have no checkout."""

import json
import os
import subprocess
import sys
import tarfile
import venv
from pathlib import Path
from zipfile import ZipFile

import pytest
from forked import ROOT, SMALL

pytestmark = pytest.mark.slow
WITH_CODE = ("fglight", "hydra_plugins", "conf")


def build(source: Path, folder: Path, *kinds: str) -> None:
    """Build distributions of a source tree into a folder, without asking a registry."""
    targets = [f"--target={kind}" for kind in kinds]
    command = [sys.executable, "-m", "hatchling", "build", "--directory", folder, *targets]
    subprocess.run(command, cwd=source, check=True, capture_output=True)


def contents(wheel: Path) -> dict[str, bytes]:
    with ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    build(ROOT, folder, "sdist", "wheel")
    return folder


@pytest.fixture(scope="module")
def environment(built, tmp_path_factory) -> Path:
    """The ``bin`` folder of an environment that has the wheel, and what it needs from the environment of the tests."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder)
    python = folder / "bin" / "python"
    (wheel,) = built.glob("*.whl")
    install = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps", "--no-index", wheel]
    subprocess.run(install, check=True)
    # After pip, which would find fglight there. An editable one is not found: its own .pth file is not read there.
    (packages,) = folder.glob("lib/python*/site-packages")
    outer = [path for path in sys.path if Path(path).name in ("site-packages", "dist-packages")]
    (packages / "outer.pth").write_text("\n".join(outer))
    return python.parent


@pytest.fixture
def run(environment, tmp_path):
    """Runs a command of the environment's in an empty folder and returns what it printed."""

    def run_it(command: str, *arguments: str) -> str:
        others = ("PYTHON", "WANDB_", "HYDRA_", "FGLIGHT_")
        variables = {name: value for name, value in os.environ.items() if not name.startswith(others)}
        variables |= {"OMP_NUM_THREADS": "1", "COLUMNS": "200"}
        started = [environment / command, *arguments]
        done = subprocess.run(started, cwd=tmp_path, env=variables, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return run_it


def test_the_wheel_has_every_file_and_the_source_distribution_builds_the_same(built, tmp_path):
    (wheel,) = built.glob("*.whl")
    (sdist,) = built.glob("*.tar.gz")
    here = {path.relative_to(ROOT) for folder in WITH_CODE for path in (ROOT / folder).rglob("*") if path.is_file()}
    sources = {path for path in here if "__pycache__" not in path.parts}
    expected = {str("fglight" / path if path.parts[0] == "conf" else path) for path in sources}
    found = contents(wheel)
    assert {name for name in found if ".dist-info/" not in name} == expected
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in found)
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path, filter="data")
    (source,) = tmp_path.iterdir()
    build(source, tmp_path / "again", "wheel")
    assert contents(tmp_path / "again" / wheel.name) == found


def test_an_installed_package_trains_sweeps_and_reports_in_an_empty_folder(run, environment, tmp_path):
    lines = "import fglight, fglight.config.settings as s; print(fglight.__file__); print(s.CONFIG_DIR)"
    for path in run("python", "-c", lines).split():
        assert Path(path).is_relative_to(environment.parent)

    run("fglight", "train", *SMALL)
    (folder,) = (tmp_path / "outputs").iterdir()
    assert json.loads((folder / "result.json").read_text())["cell"]["guess"] == "local"

    cell = ("-m", "table=3", "guess=local", "target=global", "perturb=activity", "aux=linear", "seeds=1", *SMALL)
    assert "1 run" in run("python", "-m", "fglight", "train", *cell, "plan=true")
    run("fglight", "train", *cell)
    assert len(list((tmp_path / "multirun/cells").rglob("result.json"))) == 1

    assert "2 runs finished" in run("fglight", "report")
    assert "Table 3" in (tmp_path / "report/index.html").read_text()
