"""Everything a report shows, from folders of runs."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pandas as pd

from fglight.paper import published
from fglight.paper.figures import FIGURES
from fglight.paper.layouts import LAYOUTS
from fglight.report.draw import Drawing, draw
from fglight.report.draw_estimates import draw_estimates
from fglight.report.draw_studies import draw_study
from fglight.report.estimates import estimates
from fglight.report.metrics import ReadMetrics, by_epoch, read_metrics
from fglight.report.panels import Plot, plot
from fglight.report.scores import FULL, Scores, recipe_in_words, score
from fglight.report.studies import Filled
from fglight.report.studies import fill as fill_study
from fglight.report.study_matching import CHOSEN, searched
from fglight.report.tables import Scaled, Table, fill, scaled
from fglight.report.verdicts import Verdict, judge_all, judge_scaled
from fglight.runs.collect import Collection, Problem, Run, Unfinished, collect
from fglight.studies import STUDIES, Study
from fglight.words import measured

FilledAndDrawn = tuple[tuple[Filled, Mapping[str, Drawing]], ...]
"""A study at each scale, with its figures: ``accuracy`` over what a step takes, and what ``estimates`` are like."""


@dataclass(frozen=True)
class Report:
    """The contents of a report.

    Attributes:
        runs: what was found in the folders.
        scores: finished runs by what they are comparable with.
        tables: the paper's tables with our numbers.
        verdicts: the paper's claims, judged by full-scale runs: first those that these decide. None for a report of
            studies alone.
        scaled: runs that are scaled down, by scale, with the claims that they say something of.
        figures: the paper's figures; a drawing is None where no run has logged what it needs.
        studies: studies with their runs, each at every scale that there are some of, with the figures that it has.
        problems: files and runs that were not used.
        progress: for each unfinished run its path, cell, epochs done and last test metric, in words.
    """

    runs: Collection
    scores: Scores
    tables: tuple[Table, ...]
    verdicts: tuple[Verdict, ...]
    scaled: tuple[tuple[Scaled, tuple[Verdict, ...]], ...]
    figures: tuple[tuple[Plot, Drawing | None], ...]
    studies: tuple[tuple[Study, FilledAndDrawn], ...]
    problems: tuple[Problem, ...]
    progress: tuple[tuple[str, ...], ...]

    @property
    def seeds(self) -> int:
        """Number of different seeds among the finished runs."""
        return len({run.seed for run in self.runs.finished})

    @property
    def kinds(self) -> dict[str, int]:
        """How many finished runs there are of each kind, in words; of kinds that there are any of."""
        full = sum(len(runs) for (scale, _), runs in self.scores.all_runs.items() if scale == FULL)
        kinds = {
            "at full scale": full,
            "scaled down": sum(map(len, self.scores.all_runs.values())) - full,
            "of cells that no table has": len(self.scores.others),
            "on held-out images": sum(map(searched, self.runs.finished)),
        }
        return {kind: number for kind, number in kinds.items() if number}

    @property
    def covered(self) -> tuple[int, int]:
        """Number of published cells with full-scale runs, and of all."""
        return sum(row.cell in self.scores.full for row in published()), len(published())

    @property
    def outside(self) -> tuple[tuple[str, ...], ...]:
        """Runs of cells that no table has: cell, how it was trained and test metric, in words."""
        return tuple(
            (run.cell.in_words, recipe_in_words(run), f"{run.metric} {measured(run.metric, run.score)}")
            for run in self.scores.others
        )

    @property
    def failed(self) -> tuple[tuple[str, ...], ...]:
        """Failed runs: path, cell and error, in words."""
        return tuple((str(failure.path), failure.what, " ".join(failure.error.split())) for failure in self.runs.failed)

    @property
    def skipped(self) -> tuple[tuple[str, ...], ...]:
        """Files, and runs, that were not used: path and reason, in words."""
        return tuple((str(problem.path), problem.reason) for problem in self.problems)


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
    scores = score(run for run in runs.finished if not searched(run))
    damaged: list[Problem] = []

    @cache
    def read(run: Path) -> pd.DataFrame:
        return read_metrics(run, damaged)

    plots = [plot(FIGURES[number], scores, read) for number in figures]
    return Report(
        runs=runs,
        scores=scores,
        tables=tuple(fill(LAYOUTS[number], scores) for number in tables),
        verdicts=judge_all(scores, read) if tables or figures else (),
        scaled=tuple((one, judge_scaled(one.scale, scores, read)) for one in scaled(scores, tables)),
        figures=tuple((plot, draw(plot) if plot.rows else None) for plot in plots),
        studies=_studies(studies, runs.finished, read),
        progress=tuple(_progress(run, read(run.path)) for run in runs.unfinished),
        problems=(*runs.problems, *damaged, *scores.repeated),
    )


def _studies(
    names: Iterable[str] | None, runs: Sequence[Run], read: ReadMetrics
) -> tuple[tuple[Study, FilledAndDrawn], ...]:
    if names is None:
        names = STUDIES if any(map(searched, runs)) else ()
    if not names:  # controls of the tables' networks, with the paper's recipe
        runs = [run for run in runs if not run.differences.keys() & set(CHOSEN)]
        names = ("controls",) if any(run.cell.guess == "frozen" for run in runs) else ()
    filled = ((STUDIES[name], fill_study(STUDIES[name], runs, read)) for name in names)
    return tuple((study, tuple((one, _drawings(one, read)) for one in scales)) for study, scales in filled)


def _drawings(filled: Filled, read: ReadMetrics) -> dict[str, Drawing]:
    drawings = {"accuracy": draw_study(filled)} if filled.drawn else {}
    if measured := estimates(filled, read):
        drawings["estimates"] = draw_estimates(measured, filled.in_words)
    return drawings


def _progress(run: Unfinished, metrics: pd.DataFrame) -> tuple[str, ...]:
    """How far a run is that has no result."""
    values = by_epoch(metrics, f"test/{run.metric}")
    if values.empty:
        return str(run.path), run.what, "0", ""
    last = f"{run.metric} {measured(run.metric, values.iloc[-1])}"
    return str(run.path), run.what, f"{values.index[-1]:g}", last
