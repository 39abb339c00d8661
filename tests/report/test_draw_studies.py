"""The figures of a study, on made-up runs."""

from dataclasses import replace

import pandas as pd
import pytest
from scipy.stats import ttest_rel
from study_runs import BLOCKS, FROZEN, GUESS, SAME, measured

from fglight.report.command import main
from fglight.report.draw_studies import (
    MEASURES,
    PARTS,
    compose_accuracy,
    compose_estimates,
    compose_leads,
    estimates,
    means,
)
from fglight.studies import STUDIES


def test_the_front_begins_at_what_takes_nothing(runs):
    for label, accuracy, taken in ((FROZEN, 0.6, 0), (GUESS, 0.5, 7), ("Local guess, CNN, activity", 0.7, 9)):
        runs.add(label, accuracy, logged=pd.DataFrame([{"epoch": 0, "step": 0, "derivatives/taken": taken}]))
    ax = compose_accuracy(replace(runs.filled(), study=STUDIES["continuum"])).axes[0]
    (front,) = (drawn for drawn in ax.lines if drawn.get_drawstyle() == "steps-post")
    assert front.get_xydata().tolist() == [[7, 60], [9, 70]]


def test_leads_are_drawn_with_their_intervals(runs):
    for seed, (ours, theirs) in enumerate([(0.9, 0.8), (0.92, 0.81), (0.91, 0.83)]):
        runs.add(GUESS, ours, seed)
        runs.add(SAME, theirs, seed)
    (ax,) = compose_leads(runs.filled()).axes
    assert [label.get_text() for label in ax.get_yticklabels()] == [GUESS]
    seeds, interval, mean, _ = (drawn.get_xdata() for drawn in ax.lines)
    assert sorted(seeds) == pytest.approx([8, 10, 11])
    assert tuple(interval) == pytest.approx(ttest_rel([90, 92, 91], [80, 81, 83]).confidence_interval())
    assert mean == pytest.approx(29 / 3)


def test_estimates_by_block_and_over_training(runs):
    runs.add(GUESS, 0.9, 0, logged=measured(estimate=1))
    runs.add(GUESS, 0.9, 1, logged=measured(estimate=3))
    runs.add(FROZEN, 0.5, logged=measured(estimate=0, alignment=float("nan")))
    found = estimates(runs.filled())
    for level, columns in (("block", BLOCKS), ("part", PARTS)):
        frames = {name: means(found, name, level) for name in MEASURES}
        assert {name: list(frame.columns) for name, frame in frames.items()} == {
            name: list(range(columns)) for name in MEASURES
        }
        assert (frames["length"].loc[GUESS] == (1 / 2 + 3 / 2) / 2).all()
        assert (frames["alignment"].loc[GUESS] == 0.5).all()
        assert all(frame.loc[FROZEN].isna().all() for frame in frames.values())
    assert list(means(found, "decrease", "block").loc[GUESS]) == [0, 1, 2]
    assert (means(found, "decrease", "part").loc[GUESS] == 1).all()


def test_every_estimator_is_a_row_of_the_figure(runs):
    runs.add(GUESS, 0.9, logged=measured())
    runs.add(SAME, 0.9, logged=measured(alignment=-0.1))
    canvas = compose_estimates(estimates(runs.filled()), "digits")
    first, *rest = [ax for ax in canvas.axes if ax.images]
    assert len(rest) == 2 * len(MEASURES) - 1
    assert [label.get_text() for label in first.get_yticklabels()] == [SAME, GUESS]
    ticks = [[label.get_text() for label in ax.get_xticklabels()] for ax in (first, rest[0])]
    assert ticks == [["0", "1", "2"], ["10", "30", "50", "70", "90"]]  # blocks, and percent of training that are over
    assert first.images[0].get_array().tolist() == [[-0.1] * BLOCKS, [0.5] * BLOCKS]


def test_runs_that_were_not_measured_have_no_such_figure(runs, tmp_path):
    runs.add(GUESS, 0.9)
    assert estimates(runs.filled()) is None
    assert main([str(runs.folder), "--study", "guesses", "--out", str(tmp_path / "out")]) == 0
    assert not (tmp_path / "out" / "figures").exists()


def test_the_page_shows_what_was_measured_and_can_be_written_again(runs, tmp_path):
    runs.add(GUESS, 0.9, logged=measured())
    for _ in range(2):
        assert main([str(runs.folder), "--study", "guesses", "--out", str(tmp_path / "out")]) == 0
    for suffix in ("png", "pdf"):
        assert (tmp_path / "out/figures" / f"guesses-estimates1.{suffix}").exists()
    assert 'href="figures/guesses-estimates1.pdf"' in (tmp_path / "out/index.html").read_text()
    assert "](figures/guesses-estimates1.png)" in (tmp_path / "out/tables.md").read_text()
