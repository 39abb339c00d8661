"""The reports in docs/example, made anew from the runs that are kept there.

python benchmarks/example_reports.py                          # make examples: NAME/ from runs/NAME.jsonl, for all
python benchmarks/example_reports.py NAME multirun/cells      # keeps the finished runs of a folder first
python benchmarks/example_reports.py NAME multirun/cells back # puts those that are kept back, for a sweep to go on from
"""

import json
import sys
import tempfile
from contextlib import chdir
from pathlib import Path

import pandas as pd

from fglight.report.command import main
from fglight.runs.collect import collect
from fglight.runs.folder import METRICS, RESULT

EXAMPLE = Path(__file__).parents[1] / "docs/example"
ARGUMENTS = {
    "table3": ["--table", "3", "--figure", "3", "4", "5"],
    "study_digits": ["--study", "guesses", "continuum", "budget"],
    "study_fashion_mnist": ["--study", "guesses"],
    "study_feedback": ["--study", "feedback"],
}
"""What ``fglight report`` is asked for, by the example."""

LOGGED = f"{METRICS}/version_0/metrics.csv"
UNUSED = ("device", "versions", "train_accuracy", "train_loss")
"""What no report shows."""


def keep(name: str, root: Path) -> None:
    """Write the finished runs below a folder, and what they logged to five digits, into one file, a run a line."""
    lines = []
    for run in collect([root]).finished:
        result = json.loads((run.path / RESULT).read_text())
        kept = {key: value for key, value in result.items() if key not in UNUSED}
        logged = run.path / LOGGED
        text = pd.read_csv(logged).to_csv(index=False, float_format="%.5g") if logged.exists() else ""
        lines.append(json.dumps({"run": run.path.relative_to(root).as_posix(), "result": kept, "metrics": text}))
    (EXAMPLE / "runs").mkdir(exist_ok=True)
    (EXAMPLE / f"runs/{name}.jsonl").write_text("\n".join(lines) + "\n")


def put_back(name: str, root: Path) -> None:
    """Write the runs that are kept below a folder, but for those that are there."""
    for line in (EXAMPLE / f"runs/{name}.jsonl").read_text().splitlines():
        kept = json.loads(line)
        metrics = root / kept["run"] / LOGGED
        if not metrics.parents[2].exists():
            metrics.parent.mkdir(parents=True)
            metrics.write_text(kept["metrics"])
            (metrics.parents[2] / RESULT).write_text(json.dumps(kept["result"]))


def make(name: str, out: Path) -> int:
    """Write the report of an example's runs, and return its exit status."""
    with tempfile.TemporaryDirectory() as folder, chdir(folder):
        put_back(name, Path("multirun/cells"))
        return main(["multirun/cells", *ARGUMENTS[name], "--out", str(out)])


if __name__ == "__main__":
    if sys.argv[3:] == ["back"]:
        sys.exit(put_back(sys.argv[1], Path(sys.argv[2])))
    if len(sys.argv) == 3:
        keep(sys.argv[1], Path(sys.argv[2]))
    sys.exit(max(make(name, EXAMPLE / name) for name in ARGUMENTS))
