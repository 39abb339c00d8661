"""Command line of the report: ``fglight report --help``."""

import argparse
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from fglight.errors import ConfigError, FglightError
from fglight.paper import TABLES
from fglight.paper.figures import FIGURES
from fglight.report import folder
from fglight.report.contents import Report, build
from fglight.report.render import ANSWERS, render
from fglight.report.scores import scale_in_words
from fglight.studies import STUDIES
from fglight.words import counted

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
        everything = not (options.table or options.figure or options.study)
        tables = TABLES if everything else _chosen("table", options.table, TABLES)
        figures = tuple(FIGURES) if everything else _chosen("figure", options.figure, tuple(FIGURES))
        studies = None if everything else _named(options.study)
        roots = _roots(options.roots)
        folder.check(options.out)
        report = build(roots, tables, figures, studies)
        folder.write(options.out, render(report))
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
    return parser


def _chosen(what: str, numbers: Sequence[int], known: Sequence[int]) -> tuple[int, ...]:
    for number in numbers:
        if number not in known:
            raise ConfigError(f"There is no {what} {number} with results; there are {known[0]} to {known[-1]}.")
    return tuple(sorted(set(numbers)))


def _named(names: Sequence[str]) -> tuple[str, ...]:
    for name in names:
        if name not in (*STUDIES, "all"):
            raise ConfigError(f"There is no study {name}; there are {', '.join(STUDIES)}, all.")
    return tuple(STUDIES if "all" in names else dict.fromkeys(names))


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
        print(f"scaled down, {scaled.in_words}: {counted(len(scaled.scores), 'cell')}, {seeds}; claims: {claims}")
    for plot, drawing in report.figures:
        missing = f"; missing: {'; '.join(plot.missing)}" if plot.missing else ""
        state = f"drawn from {scale_in_words(plot.scale)} runs" if drawing else "not drawn"
        print(f"figure {plot.figure.number}: {state}{missing}")
    for study, scales in report.studies:
        filled = (f"{sum(bool(line.score) for line in scale.lines)} at {scale.in_words}" for scale, _ in scales)
        print(f"study {study.name}: of {counted(len(study.rows), 'estimator')}, {', '.join(filled) or 'none was run'}")
    for path, _, error in report.failed:
        print(f"failed: {path}: {error}")
    for path, reason in report.skipped:
        print(f"skipped: {path}: {reason}")
    print(f"wrote {out / 'index.html'}")


if __name__ == "__main__":
    sys.exit(main())
