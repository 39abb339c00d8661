"""The published numbers, the layouts of their tables, and how runs are put into them."""

from collections import Counter
from dataclasses import replace

import pandas as pd
import pytest
from written_runs import LOCAL, cell, result, scores_of, write_run

from fglight.paper import TABLES, published, rows, unprinted
from fglight.paper.layouts import LAYOUTS
from fglight.report.scores import score, setting_in_words
from fglight.report.tables import USUAL_STD, as_frame, fill
from fglight.runs.collect import collect

LOCAL_STEP = next(row.lr_step for row in published() if row.cell == LOCAL)


def entry_of(number, scores, wanted=LOCAL):
    return next(entry for entry in fill(LAYOUTS[number], scores).entries if entry.row.cell == wanted)


def test_the_462_published_rows_have_462_cells_and_1524_runs():
    assert len({row.cell for row in published()}) == len(published()) == 462
    assert sum(row.seeds for row in published()) == 1524
    assert len({row.cell for row in rows()}) == len(rows()) == 462 + len(unprinted())
    assert {(row.mean, row.std) for row in unprinted()} == {(None, None)}
    assert pd.Series([row.std for row in published()]).median() == USUAL_STD


@pytest.mark.parametrize("number", TABLES)
def test_a_layout_has_each_row_of_its_table_exactly_once(number):
    layout = LAYOUTS[number]
    shown = Counter(cell for header in layout.rows for cell, _ in layout.cells(header))
    assert shown == Counter(row.cell for row in rows() if row.table == number)
    assert all(sum(span for _, span in layout.cells(header)) == len(layout.columns) for header in layout.rows)
    assert all(len(header.words) == len(layout.corner) for header in layout.rows)
    assert {len(words) for words in layout.corner} == {len(column.words) for column in layout.columns}


def test_headers_span_the_columns_below_them():
    assert LAYOUTS[7].header_lines() == [
        (["Dataset"], [("CIFAR-100", 4), ("Fashion-MNIST", 4), ("Imagenette", 4)]),
        ([""], [("16 blocks", 2), ("8 blocks", 2)] * 3),
        (["Guess"], [("Activity", 1), ("Weight", 1)] * 6),
    ]
    assert [span for _, span in LAYOUTS[7].cells(LAYOUTS[7].rows[0])] == [2] * 6


def test_what_stands_above_the_last_line_of_headers_has_no_perturbation():
    above = {number: layout.rows[: layout.above] for number, layout in LAYOUTS.items() if layout.above}
    assert set(above) == {3, 7, 8}  # in Table 2 end-to-end training stands below it
    for number, headers in above.items():
        assert {cell.perturb for header in headers for cell, _ in LAYOUTS[number].cells(header)} == {""}


def test_full_scale_runs_are_averaged_over_seeds_and_compared(tmp_path):
    scores = scores_of(tmp_path, *(result(LOCAL, accuracy, seed) for seed, accuracy in enumerate((0.90, 0.91, 0.95))))
    entry = entry_of(3, scores)
    assert entry.full.mean == pytest.approx(92.0)
    assert entry.full.std == pytest.approx(7**0.5)  # of 90, 91, 95, with n - 1
    assert len(entry.full.seeds) == 3
    assert entry.difference == pytest.approx(0.0)
    assert entry.status == "near"


@pytest.mark.parametrize(
    ("accuracies", "status"),
    [
        ((0.928,), "near"),  # paper 92.0 ± 0.3; one run has the usual deviation
        ((0.930,), "above"),
        ((0.910,), "below"),
        ((0.9285, 0.9285), "above"),  # two runs that agree have no deviation
        ((0.900, 0.930), "near"),
    ],
)
def test_a_difference_is_near_within_the_two_deviations(tmp_path, accuracies, status):
    scores = scores_of(tmp_path, *(result(LOCAL, accuracy, seed) for seed, accuracy in enumerate(accuracies)))
    assert entry_of(3, scores).status == status


@pytest.mark.parametrize(
    ("trained", "changes", "options", "words"),
    [
        (LOCAL, {"epochs": 10}, {}, "10 epochs"),
        (LOCAL, {"epochs": 1}, {}, "1 epoch"),
        (LOCAL, {"lr": 0.1}, {}, "lr 0.1"),
        (LOCAL, {"lr_step": 40}, {}, "lr_step 40"),
        (LOCAL, {"lr_step": LOCAL_STEP + 1}, {}, f"lr_step {LOCAL_STEP + 1}"),
        (LOCAL, {"lr_step": LOCAL_STEP - 1}, {}, f"lr_step {LOCAL_STEP - 1}"),
        (LOCAL, {"epochs": 10, "lr_step": 30}, {}, "10 epochs, lr_step 30"),
        (LOCAL, {"batch_size": 64}, {}, "batch_size 64"),
        (LOCAL, {"momentum": 0.0}, {}, "momentum 0"),
        (LOCAL, {"weight_decay": 0.0}, {}, "weight_decay 0"),
        (LOCAL, {}, {"perturb.granularity": "block", "aux.hidden": 8}, "aux.hidden 8, perturb.granularity block"),
        (LOCAL, {}, {"trainer.limit_train_batches": 3}, "trainer.limit_train_batches 3"),
        (LOCAL, {}, {"trainer.max_time": {"hours": 8}}, "trainer.max_time.hours 8"),
        (replace(LOCAL, width=0.25), {}, {}, "width 0.25"),
        (replace(LOCAL, data="digits"), {"epochs": 5}, {}, "digits, 5 epochs"),
    ],
)
def test_runs_away_from_the_papers_setting_are_marked_and_not_compared(tmp_path, trained, changes, options, words):
    scores = scores_of(tmp_path, result(trained, 0.8, like=LOCAL, settings=options, **changes))
    table = fill(LAYOUTS[3], scores)
    entry = entry_of(3, scores)
    assert (entry.status, entry.full, entry.difference) == ("scaled", None, None)
    assert entry.ours["a"].mean == pytest.approx(80.0)
    assert table.notes == {"a": words}


def test_what_the_paper_does_not_print_is_compared_with_nothing(tmp_path):
    gaussian = cell("cifar10 8 1 global gaussian - weight")
    scores = scores_of(tmp_path, result(gaussian, 0.5, 0), result(gaussian, 0.6, 1))
    entry = entry_of(3, scores, gaussian)
    assert (entry.full.mean, entry.difference, entry.status, entry.paper) == (
        pytest.approx(55),
        None,
        "alone",
        "not printed",
    )
    scaled = entry_of(3, scores_of(tmp_path / "scaled", result(gaussian, 0.5, epochs=2)), gaussian)
    assert (scaled.full, scaled.difference, scaled.status) == (None, None, "scaled")
    (line,) = (line for _, line in as_frame([fill(LAYOUTS[3], scores)]).iterrows() if line["status"] == "alone")
    assert line[["paper_mean", "paper_std", "difference"]].isna().all()
    assert (line["mean"], line["seeds"], line["paper_seeds"]) == (55, 2, 4)


def test_a_run_stopped_early_is_scaled_down(tmp_path):
    scores = scores_of(tmp_path, {**result(LOCAL, 0.8), "epoch": 49})
    assert [setting_in_words(name) for name in scores.shown(LOCAL)] == ["stopped after epoch 50"]


def test_full_scale_wins_and_different_settings_are_never_averaged(tmp_path):
    ten = [result(LOCAL, accuracy, seed, epochs=10) for seed, accuracy in enumerate((0.6, 0.8))]
    twenty = result(LOCAL, 0.85, epochs=20)
    scores = scores_of(tmp_path, *ten, twenty)
    table = fill(LAYOUTS[3], scores)
    shown = entry_of(3, scores).ours
    assert table.notes == {"a": "10 epochs", "b": "20 epochs"}
    assert {mark: (found.mean, len(found.seeds)) for mark, found in shown.items()} == {
        "a": (pytest.approx(70), 2),
        "b": (pytest.approx(85), 1),
    }
    write_run(tmp_path / "full", result(LOCAL, 0.93, seed=5))
    entry = entry_of(3, score(collect([tmp_path]).finished))
    assert (list(entry.ours), entry.full.seeds) == ([""], (5,))


def test_other_data_stand_for_the_cells_whose_rate_they_have(tmp_path):
    digits = replace(LOCAL, data="digits")
    as_cifar = result(digits, 0.8, like=LOCAL, epochs=5)
    as_imagenet = result(digits, 0.7, like=replace(LOCAL, data="imagenet32"), epochs=5)
    scores = scores_of(tmp_path, as_cifar, as_imagenet)
    found = {row.data: [s.mean for s in scores.by_cell[row].values()] for row in scores.by_cell}
    eighty = [pytest.approx(80)]
    assert found == {
        "cifar10": eighty,
        "cifar100": eighty,
        "fashion_mnist": eighty,
        "imagenette": eighty,
        "imagenet32": [pytest.approx(70)],
    }


def test_data_of_the_paper_stand_for_themselves_only(tmp_path):
    scores = scores_of(tmp_path, result(replace(LOCAL, data="cifar100"), 0.6))
    assert list(scores.by_cell) == [replace(LOCAL, data="cifar100")]


def test_a_repeated_seed_counts_once_and_is_named(tmp_path):
    scores = scores_of(tmp_path, result(LOCAL, 0.92), result(LOCAL, 0.60))
    assert entry_of(3, scores).full.mean == pytest.approx(92.0)
    assert [problem.path.name for problem in scores.repeated] == ["run1"]


def test_cells_that_the_paper_does_not_have_are_kept_apart(tmp_path):
    scores = scores_of(tmp_path, result(cell("cifar10 8 1 local local cnn weight"), 0.9, like=LOCAL))
    assert (scores.by_cell, len(scores.others)) == ({}, 1)


def test_the_csv_has_a_line_for_each_cell_and_setting(tmp_path):
    scores = scores_of(tmp_path, result(LOCAL, 0.93), result(replace(LOCAL, aux="mlp"), 0.5, epochs=2))
    frame = as_frame([fill(LAYOUTS[3], scores)])
    assert len(frame) == 34
    assert frame["status"].value_counts().to_dict() == {"missing": 32, "above": 1, "scaled": 1}
    full = frame[frame["status"] == "above"].iloc[0]
    assert (full["mean"], full["difference"], full["paper_mean"], full["seeds"]) == (93.0, 1.0, 92.0, 1)
    scaled = frame[frame["status"] == "scaled"].iloc[0]
    assert (scaled["mean"], scaled["setting"]) == (50.0, "2 epochs")
    assert pd.isna(scaled["difference"])
