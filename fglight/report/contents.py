"""Everything a report shows, from folders of runs."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from fglight.log_names import of_split
from fglight.paper import published
from fglight.paper.figures import FIGURES
from fglight.paper.layouts import LAYOUTS
from fglight.report.draw_figures import Drawing, Plot, compose, plot, saved
from fglight.report.draw_studies import compose_accuracy, compose_estimates, compose_leads, estimates
from fglight.report.estimators import CHOSEN, Filled, searched
from fglight.report.estimators import fill as fill_study
from fglight.report.results import FULL, Results, recipe_in_words, sort_runs
from fglight.report.tables import Scaled, Table, fill, scaled
from fglight.report.verdicts import Verdict, judge_all
from fglight.runs.collect import Collection, Run, Unfinished, collect
from fglight.runs.logged import by_epoch
from fglight.studies import STUDIES, Study
from fglight.text import measured

FilledAndDrawn = tuple[tuple[Filled, Mapping[str, Drawing]], ...]
"""A study at each scale, with its figures: ``accuracy`` over what a step takes, ``leads`` over local learning, and what
``estimates`` are like."""

Lines = tuple[tuple[str, ...], ...]
"""Lines of words."""


@dataclass(frozen=True)
class Report:
    """The contents of a report.

    Attributes:
        runs: what was found in the folders.
        results: finished runs by what they are comparable with.
        tables: the paper's tables with our numbers.
        verdicts: the paper's claims, judged by full-scale runs: first those that these decide. None for a report of
            studies alone.
        scaled: runs that are scaled down, by scale, with the claims that they say something of.
        figures: the paper's figures; a drawing is None where no run has logged what it needs.
        studies: studies with their runs, each at every scale that there are some of, with the figures that it has.
        progress: for each unfinished run its path, cell, epochs done and last test metric.
        skipped: files, and runs, that were not used: path and reason.
    """

    runs: Collection
    results: Results
    tables: tuple[Table, ...]
    verdicts: tuple[Verdict, ...]
    scaled: tuple[tuple[Scaled, tuple[Verdict, ...]], ...]
    figures: tuple[tuple[Plot, Drawing | None], ...]
    studies: tuple[tuple[Study, FilledAndDrawn], ...]
    progress: Lines
    skipped: Lines

    @property
    def seeds(self) -> int:
        """Number of different seeds among the finished runs."""
        return len({run.seed for run in self.runs.finished})

    @property
    def kinds(self) -> dict[str, int]:
        """How many finished runs there are of each kind, in words; of kinds that there are any of."""
        by_scale = {scale: sum(map(len, cells.values())) for scale, cells in self.results.runs.items()}
        kinds = {
            "at full scale": by_scale[FULL],
            "scaled down": sum(by_scale.values()) - by_scale[FULL],
            "of cells that no table has": len(self.results.others),
            "on held-out images": sum(map(searched, self.runs.finished)),
        }
        return {kind: number for kind, number in kinds.items() if number}

    @property
    def covered(self) -> tuple[int, int]:
        """Number of published cells with full-scale runs, and of all."""
        return sum(row.cell in self.results.full for row in published()), len(published())

    @property
    def outside(self) -> Lines:
        """Runs of cells that no table has: cell, how it was trained and test metric."""
        return tuple(
            (run.cell.in_words, recipe_in_words(run), f"{run.metric} {measured(run.metric, run.score)}")
            for run in self.results.others
        )


def build(
    roots: Iterable[Path], tables: Sequence[int], figures: Sequence[int], studies: Iterable[str] | None = ()
) -> Report:
    """Read the runs below some folders and fill the tables, judge the claims and draw the figures.

    Args:
        roots: folders with run directories at any depth.
        tables: numbers of the paper's tables to fill.
        figures: numbers of the paper's figures to draw.
        studies: names of studies to fill; None for those of which learning rates were searched.

    Raises:
        ConfigError: a root is no folder.
    """
    runs = collect(roots)
    results = sort_runs(run for run in runs.finished if not searched(run))
    plots = [plot(FIGURES[number], results) for number in figures]
    return Report(
        runs=runs,
        results=results,
        tables=tuple(fill(LAYOUTS[number], results) for number in tables),
        verdicts=judge_all(results) if tables or figures else (),
        scaled=tuple((one, judge_all(results, one.scale)) for one in scaled(results, tables)),
        figures=tuple((plot, saved(compose(plot)) if plot.lines else None) for plot in plots),
        studies=_studies(studies, runs.finished),
        progress=tuple(map(_progress, runs.unfinished)),
        # Last, since what is read of metrics above adds to the problems.
        skipped=tuple((str(problem.path), problem.reason) for problem in (*runs.problems, *results.repeated)),
    )


def _studies(names: Iterable[str] | None, runs: Sequence[Run]) -> tuple[tuple[Study, FilledAndDrawn], ...]:
    if names is None:
        names = STUDIES if any(map(searched, runs)) else ()
    if not names:  # controls of the tables' networks, with the paper's recipe
        runs = [run for run in runs if not run.differences.keys() & set(CHOSEN)]
        names = ("controls",) if any(run.cell.guess == "frozen" for run in runs) else ()
    filled = ((STUDIES[name], fill_study(STUDIES[name], runs)) for name in names)
    return tuple((study, tuple((one, _drawings(one)) for one in scales)) for study, scales in filled)


def _drawings(filled: Filled) -> dict[str, Drawing]:
    drawings = {"accuracy": saved(compose_accuracy(filled))} if filled.drawn else {}
    if any(line.local and line.local.difference for line in filled.lines):
        drawings["leads"] = saved(compose_leads(filled))
    if (found := estimates(filled)) is not None:
        drawings["estimates"] = saved(compose_estimates(found, str(filled.scale)))
    return drawings


def _progress(run: Unfinished) -> tuple[str, ...]:
    """How far a run is that has no result."""
    values = by_epoch(run.metrics, of_split("test", run.metric))
    if values.empty:
        return str(run.path), run.what, "0", ""
    return str(run.path), run.what, f"{values.index[-1]:g}", f"{run.metric} {measured(run.metric, values.iloc[-1])}"
