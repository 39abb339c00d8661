"""The house: imports go down only."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
from forked import ROOT

FLOORS = (
    ("errors", "text", "memory_format", "log_names", "processes", "locks"),
    ("hub",),
    ("cell", "models", "data"),
    ("paper", "autodiff"),
    ("estimators",),
    ("diagnostics",),
    ("config",),
    ("runs", "studies"),
    ("build",),
    ("training", "sweeps", "report"),
    ("train", "evaluate", "export", "demo"),
    ("__main__",),
)
"""The packages and modules of ``fglight``, from the ground up; those of one floor do not know each other."""

SOURCES = sorted((ROOT / "fglight").rglob("*.py"))


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {module_of(path): path for path in SOURCES}


def imported(path: Path) -> Iterator[str]:
    """The modules of ``fglight`` that a module imports, inside functions, too."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            inside = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [name if name in MODULES else str(node.module) for name in inside]
        else:
            continue
        yield from (name for name in names if name.startswith("fglight."))


def floor(module: str) -> int:
    part = module.split(".")[1]
    return next(number for number, parts in enumerate(FLOORS) if part in parts)


@pytest.mark.parametrize("module", [module for module in MODULES if "." in module])
def test_a_module_imports_from_lower_floors_and_its_own_package(module):
    for other in imported(MODULES[module]):
        same_package = other.split(".")[1] == module.split(".")[1]
        assert same_package or floor(other) < floor(module), f"{module} imports {other}"


def test_no_modules_import_each_other_in_a_circle():
    graph = {module: set(imported(path)) - {module} for module, path in MODULES.items()}
    done: set[str] = set()

    def visit(module: str, above: tuple[str, ...]) -> None:
        assert module not in above, " -> ".join([*above[above.index(module) :], module])
        if module not in done:
            for other in sorted(graph.get(module, ())):
                visit(other, (*above, module))
            done.add(module)

    for module in graph:
        visit(module, ())


@pytest.mark.parametrize("package", ["models", "estimators"])
def test_models_and_estimators_know_nothing_of_lightning_and_hydra(package):
    for path in (ROOT / "fglight" / package).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [str(node.module)] if isinstance(node, ast.ImportFrom) else []
            assert not any(name.split(".")[0] in ("lightning", "hydra", "omegaconf") for name in names), path
