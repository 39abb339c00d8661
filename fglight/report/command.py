"""Command line of the report: ``fglight report --help``."""

import argparse
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TypeVar

from fglight.errors import ConfigError, FglightError
from fglight.paper import TABLES
from fglight.paper.figures import FIGURES
from fglight.report import output
from fglight.report.contents import Report, build
from fglight.report.render import ANSWERS, render
from fglight.studies import STUDIES, add_studies
from fglight.text import counted

T = TypeVar("T", int, str)

DEFAULT_ROOTS = ("multirun", "outputs")


def main(arguments: Sequence[str] | None = None) -> int:
    """Write a report and say what is in it.

    Args:
        arguments: command line; None means the process's own.

    Returns:
        Exit status: 0, or 1 after an error that the user can act on.
    """
    options = _parser().parse_intermixed_args(arguments)
    try:
        if options.config_dir is not None:
            add_studies(options.config_dir)
        everything = not (options.table or options.figure or options.study)
        tables = sorted(_check("table", TABLES if everything else options.table, TABLES))
        figures = sorted(_check("figure", FIGURES if everything else options.figure, tuple(FIGURES)))
        named = _check("study", options.study, (*STUDIES, "all"))
        studies = None if everything else tuple(STUDIES) if "all" in named else named
        roots = _roots(options.roots)
        output.check(options.out)
        report = build(roots, tables, figures, studies)
        output.write(options.out, render(report))
    except FglightError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    _tell(report, options.out)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "fglight report",
        description="Put the results of runs beside the paper's: tables, claims and figures.",
        epilog="With --table, --figure or --study, the report has only these.",
    )
    parser.add_argument("roots", nargs="*", type=Path, help="folders with runs at any depth (multirun and outputs)")
    parser.add_argument("--out", type=Path, default=Path("report"), help="folder of the report (report)")
    parser.add_argument("--table", type=int, nargs="+", default=[], metavar="N", help="only these tables, 2 to 12")
    parser.add_argument("--figure", type=int, nargs="+", default=[], metavar="N", help="only these figures, 2 to 9")
    parser.add_argument(
        "--study", nargs="+", default=[], metavar="NAME", help=f"only these studies: {', '.join(STUDIES)}, all"
    )
    parser.add_argument("--config-dir", type=Path, help="a folder with studies of your own, study/NAME.yaml")
    return parser


def _check(option: str, chosen: Iterable[T], known: Sequence[T]) -> list[T]:
    """What was chosen, each once; one that is not known is an error."""
    for one in chosen:
        if one not in known:
            accepted = f"{known[0]} to {known[-1]}" if isinstance(one, int) else f"one of {', '.join(map(str, known))}"
            raise ConfigError(f"--{option} must be {accepted}, got {one}.")
    return list(dict.fromkeys(chosen))


def _roots(given: Sequence[Path]) -> list[Path]:
    if given:
        return list(given)
    if found := [Path(name) for name in DEFAULT_ROOTS if Path(name).is_dir()]:
        return found
    raise ConfigError(f"No folder of runs: neither {' nor '.join(DEFAULT_ROOTS)} is here; name one.")


def _tell(report: Report, out: Path) -> None:
    runs = report.runs
    kinds = ", ".join(f"{number} {kind}" for kind, number in report.kinds.items())
    print(
        f"{counted(len(runs.finished), 'run')} finished{f' ({kinds})' if kinds else ''}, "
        f"{len(runs.unfinished)} unfinished, {len(runs.failed)} failed, in {', '.join(map(str, runs.roots))}"
    )
    for table in report.tables:
        full = sum(bool(entry.full) for entry in table.entries)
        print(f"table {table.layout.number}: {full} of {counted(len(table.entries), 'cell')} at full scale")
    for scaled, verdicts in report.scaled:
        answers = Counter(finding.answer for verdict in verdicts for finding in verdict.findings)
        claims = ", ".join(f"{answer} {counted(answers[answer], 'time')}" for answer in ANSWERS)
        seeds = counted(len(scaled.seeds), "seed")
        print(f"scaled down, {scaled.scale}: {counted(len(scaled.scores), 'cell')}, {seeds}; claims: {claims}")
    for plot, drawing in report.figures:
        missing = f"; missing: {'; '.join(plot.missing)}" if plot.missing else ""
        state = f"drawn from {plot.scale} runs" if drawing else "not drawn"
        print(f"figure {plot.figure.number}: {state}{missing}")
    for study, scales in report.studies:
        filled = (f"{sum(bool(line.score) for line in scale.lines)} at {scale.scale}" for scale, _ in scales)
        print(f"study {study.name}: of {counted(len(study.rows), 'estimator')}, {', '.join(filled) or 'none was run'}")
    for path, _, error in runs.failed:
        print(f"failed: {path}: {error}")
    for file, reason in report.skipped:
        print(f"skipped: {file}: {reason}")
    print(f"wrote {out / 'index.html'}")


if __name__ == "__main__":
    sys.exit(main())
