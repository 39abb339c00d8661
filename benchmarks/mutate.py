"""How many small errors the tests catch: one comparison, number, operator or loop changed at a time, at random places.

    python benchmarks/mutate.py fglight/runs/record.py --count 50
    python benchmarks/mutate.py fglight/estimators --tests tests/estimators/test_layers.py

Each mutant is written into a copy of the repository, and tests run there until one fails: without ``--tests``, first
those in a file that is called like the mutant's, then those of its package, then others that import it. pytest-timeout
fails a test that a mutant hangs. What survives is printed: a test is missing, or the change makes no difference.
"""

import argparse
import multiprocessing
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import cosmic_ray.plugins
from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code

ROOT = Path(__file__).parents[1]
ORDER = "(Eq|NotEq|Lt|LtE|Gt|GtE)"
ARITHMETIC = "(Add|Sub|Mul|Div|FloorDiv|Mod|Pow)"
OPERATORS = re.compile(
    rf"core/(ReplaceComparisonOperator_({ORDER}_{ORDER}|Is_IsNot|IsNot_Is)|ReplaceBinaryOperator_{ARITHMETIC}_{ARITHMETIC}"
    r"|ReplaceUnaryOperator_Delete_.*|ReplaceTrueWithFalse|ReplaceFalseWithTrue|ReplaceAndWithOr|ReplaceOrWithAnd"
    r"|AddNot|ReplaceBreakWithContinue|ReplaceContinueWithBreak|NumberReplacer|ZeroIterationForLoop)"
)
"""Of Cosmic Ray's: without those that change types (``|``), exceptions or decorators, or turn ``==`` into ``is``."""

PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(
    ["torch", "torchvision", "lightning", "hydra", "sklearn.datasets", "pandas", "scipy.stats", "matplotlib", "pytest"]
)
"""What takes seconds to import and is not mutated."""


def mutants(path: Path) -> dict[tuple[int, int], list[str]]:
    """The mutants of a file, as its whole text each, by line and column."""
    source = path.read_text()
    nodes = list(ast_nodes(get_ast(source)))
    found: dict[tuple[int, int], list[str]] = {}
    for name in filter(OPERATORS.fullmatch, cosmic_ray.plugins.operator_names()):
        operator = cosmic_ray.plugins.get_operator(name)()
        places = [start for node in nodes for start, _ in operator.mutation_positions(node)]
        for occurrence, place in enumerate(places):
            with suppress(SyntaxError):  # ``**`` before keywords is taken for a power
                compile(text := mutate_code(source, operator, occurrence), str(path), "exec")
                found.setdefault(place, []).append(text)
    return found


def sample(files: list[Path], count: int, seed: int) -> Iterator[tuple[Path, int, str]]:
    """File, line and text of one mutant each at places that are drawn at random."""
    draw = random.Random(seed)
    places = [(file, place, texts) for file in files for place, texts in sorted(mutants(file).items())]
    for file, (line, _), texts in draw.sample(places, min(count, len(places))):
        yield file, line, draw.choice(texts)


def tests_of(file: Path) -> list[str]:
    """The file's own tests, then those of its package, then others that import it."""
    parts = file.relative_to(ROOT).with_suffix("").parts
    all_tests = sorted((ROOT / "tests").rglob("test_*.py"))
    folder = ROOT / "tests" / parts[1]  # which may not be there
    own = [folder.parent / f"test_{file.stem}.py", *folder.rglob(f"test_{file.stem}.py")]
    module = re.compile(rf"\b{re.escape('.'.join(parts))}\b")
    users = [path for path in all_tests if module.search(path.read_text())]
    package = [path for path in all_tests if path.is_relative_to(folder)]
    return [str(path.relative_to(ROOT)) for path in dict.fromkeys([*own, *package, *users]) if path in all_tests]


def failing(copy: Path, tests: list[str]) -> bool:
    """Whether a test fails in the copy."""
    process = PROCESSES.Process(target=_run, args=(copy, tests))
    process.start()
    process.join()
    if process.exitcode not in (0, 1, 2):  # passed, failed, or not importable
        sys.exit(f"pytest {' '.join(tests)} ended with {process.exitcode}, which is neither passed nor failed")
    return process.exitcode != 0


def _run(copy: Path, tests: list[str]) -> None:
    os.chdir(copy)
    os.environ |= {"PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1"}
    sys.dont_write_bytecode = True
    sys.path[:0] = [str(copy)]
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    import pytest

    preloaded = "ignore:Module already imported:pytest.PytestAssertRewriteWarning"
    options = ["-x", "-q", "-p", "no:cacheprovider", "-m", "not slow", "-W", preloaded, "-o", "timeout=60"]
    sys.exit(int(pytest.main([*options, *tests])))


def main() -> None:
    """Mutate, test and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("paths", nargs="+", type=Path, help="files or folders of fglight/")
    parser.add_argument("--count", type=int, default=30, help="mutants (default: 30)")
    parser.add_argument("--seed", type=int, default=0, help="of the places that are drawn (default: 0)")
    parser.add_argument("--tests", nargs="+", help="in place of the package's")
    asked = parser.parse_args()
    files = [
        file.resolve() for path in asked.paths for file in (sorted(path.rglob("*.py")) if path.is_dir() else [path])
    ]
    if wrong := [str(file) for file in files if not (file.is_file() and file.is_relative_to(ROOT / "fglight"))]:
        parser.error(f"paths must be files or folders of fglight/, got {wrong[0]}")
    survived = done = 0
    with tempfile.TemporaryDirectory() as temporary:
        copy = Path(temporary)
        tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
        for name in filter(None, tracked.split("\0")):
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, copy / name)
        tests = asked.tests or sorted({path for file in files for path in tests_of(file)})
        if not tests:
            parser.error("--tests must name some, since no test imports these files")
        if failing(copy, tests):
            sys.exit(f"pytest {' '.join(tests)} must pass before anything is mutated")
        for file, line, text in sample(files, asked.count, asked.seed):
            target = copy / file.relative_to(ROOT)
            target.write_text(text)
            caught = failing(copy, asked.tests or tests_of(file))
            target.write_text(file.read_text())
            survived, done = survived + (not caught), done + 1
            before, after = (lines.splitlines()[line - 1].strip() for lines in (file.read_text(), text))
            print(
                f"{'caught  ' if caught else 'SURVIVED'} {file.relative_to(ROOT)}:{line}  {before}  ->  {after}",
                flush=True,
            )
    print(f"{done - survived} of {done} mutants caught")


if __name__ == "__main__":
    main()
