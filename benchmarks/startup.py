"""How long commands take that train nothing, and a run until it has trained a step, each in a process of its own.

python benchmarks/startup.py                         # prints the table
python benchmarks/startup.py --write                 # and writes it into benchmarks/STARTUP.md
"""

import argparse
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path
from statistics import median

import torch
from tables import as_markdown, machine, show

ROOT = Path(__file__).parents[1]
TRAIN = str(ROOT / "train.py")
RESULTS = ROOT / "benchmarks" / "STARTUP.md"
STEP = ("data=digits", "model.width=0.0625", "trainer.fast_dev_run=true", "trainer.enable_progress_bar=false")

COMMANDS = {
    "import hydra": ["-c", "import hydra"],
    "train.py --help": [TRAIN, "--help"],
    "train.py guess=nonsense": [TRAIN, "guess=nonsense"],
    "train.py optim.lr=-1": [TRAIN, "optim.lr=-1"],
    "train.py -m table=99": [TRAIN, "-m", "table=99"],
    "a report of no runs": ["-m", "fglight", "report", "runs", "--out", "report"],
    "import torch": ["-c", "import torch"],
    "import lightning": ["-c", "import lightning"],
    "one step and one test, logger.mode=disabled": [TRAIN, *STEP, "logger.mode=disabled"],
}


def seconds(arguments: list[str], folder: Path) -> float:
    """The wall-clock time of a Python process."""
    start = time.perf_counter()
    subprocess.run([sys.executable, *arguments], cwd=folder, capture_output=True, check=False)
    return time.perf_counter() - start


def measure(times: int) -> dict[str, float]:
    """The median time of every command."""
    found: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(times):
        for name, arguments in COMMANDS.items():
            with tempfile.TemporaryDirectory() as folder:
                (Path(folder) / "runs").mkdir()
                found[name].append(seconds(arguments, Path(folder)))
    return {name: median(values) for name, values in found.items()}


def main() -> None:
    """Measure, print, and write where asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5, help="how often each command is run")
    parser.add_argument("--write", action="store_true", help=f"write the table into {RESULTS.name}")
    arguments = parser.parse_args()
    header = ["command", "seconds", "beyond Hydra's import"]
    found = measure(arguments.repeats)
    hydra = found["import hydra"]
    rows = [[f"`{name}`", f"{value:.2f}", f"{value - hydra:.2f}"] for name, value in found.items()]
    show("start-up", header, rows)
    text = [
        "# Start-up",
        f"`python {' '.join(sys.argv)}`, {date.today()}: wall-clock time of whole processes, medians of "
        f"{arguments.repeats}; {machine(torch.device('cpu'))}.",
        as_markdown(header, rows),
    ]
    if arguments.write:
        RESULTS.write_text("\n\n".join(text) + "\n")


if __name__ == "__main__":
    main()
