"""The published numbers, the layouts of their tables, and how runs are put into them."""

from collections import Counter
from dataclasses import replace
from math import inf

import pytest
from written_runs import LOCAL, cell, result, results_of

from fglight.paper import TABLES, published, rows, unprinted
from fglight.paper.layouts import LAYOUTS
from fglight.paper.recipes import recipe
from fglight.report.results import FULL, like
from fglight.report.tables import as_frame, fill, scaled

LOCAL_STEP = recipe(LOCAL).lr_step


def entry_of(number, scores, wanted=LOCAL):
    return next(entry for entry in fill(LAYOUTS[number], scores).entries if entry.row.cell == wanted)


def test_the_462_published_rows_have_462_cells_and_1524_runs():
    assert len({row.cell for row in published()}) == len(published()) == 462
    assert sum(row.seeds for row in published()) == 1524
    assert len({row.cell for row in rows()}) == len(rows()) == 462 + len(unprinted())
    assert {(row.mean, row.std) for row in unprinted()} == {(None, None)}


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
    scores = results_of(tmp_path, *(result(LOCAL, accuracy, seed) for seed, accuracy in enumerate((0.90, 0.91, 0.95))))
    entry = entry_of(3, scores)
    assert entry.full.mean == pytest.approx(92.0)
    assert entry.full.std == pytest.approx(7**0.5)  # of 90, 91, 95, with n - 1
    assert entry.full.seeds == (0, 1, 2)
    assert entry.difference.mean == pytest.approx(0.0)
    assert entry.status == "not told apart"


@pytest.mark.parametrize(
    ("accuracies", "status"),
    [  # the paper: 92.0 ± 0.3, four seeds
        ((0.99,), "one run"),
        ((0.99, 0.99), "two seeds"),
        ((0.93, 0.935, 0.94), "more"),
        ((0.90, 0.905, 0.91), "less"),
        ((0.90, 0.93, 0.95), "not told apart"),
    ],
)
def test_a_verdict_beside_the_papers_number_takes_three_seeds_and_an_interval(tmp_path, accuracies, status):
    scores = results_of(tmp_path, *(result(LOCAL, accuracy, seed) for seed, accuracy in enumerate(accuracies)))
    assert entry_of(3, scores).status == status


def test_of_two_seeds_both_differences_are_told(tmp_path):
    scores = results_of(tmp_path, *(result(LOCAL, accuracy, seed) for seed, accuracy in enumerate((0.93, 0.90))))
    assert str(entry_of(3, scores).difference) == "+1.0, −2.0"


def test_a_number_that_is_printed_without_deviation_is_of_one_run(tmp_path):
    there = replace(LOCAL, data="imagenet32")
    scores = results_of(tmp_path, *(result(there, accuracy, seed) for seed, accuracy in enumerate((0.1, 0.11, 0.12))))
    entry = entry_of(3, scores, there)
    assert (entry.status, entry.difference.interval()) == ("one run", (-inf, inf))


@pytest.mark.parametrize(
    ("trained", "changes", "options", "words"),
    [
        (LOCAL, {"epochs": 10}, {}, "cifar10, 10 epochs"),
        (LOCAL, {"epochs": 1}, {}, "cifar10, 1 epoch"),
        (LOCAL, {"epochs": 9}, {}, "cifar10, 9 epochs"),
        (LOCAL, {"epochs": 9, "lr_step": 2}, {}, "cifar10, 9 epochs, lr_step 2"),  # 2.7 are shrunk to 3
        (LOCAL, {"lr": 0.1}, {}, "cifar10, 100 epochs, lr 0.1"),
        (LOCAL, {"lr_step": 40}, {}, "cifar10, 100 epochs, lr_step 40"),
        (LOCAL, {"lr_step": LOCAL_STEP + 1}, {}, f"cifar10, 100 epochs, lr_step {LOCAL_STEP + 1}"),
        (LOCAL, {"lr_step": LOCAL_STEP - 1}, {}, f"cifar10, 100 epochs, lr_step {LOCAL_STEP - 1}"),
        (LOCAL, {"epochs": 10, "lr_step": 30}, {}, "cifar10, 10 epochs, lr_step 30"),
        (LOCAL, {"batch_size": 64}, {}, "cifar10, 100 epochs, batch_size 64"),
        (LOCAL, {"momentum": 0.0}, {}, "cifar10, 100 epochs, momentum 0"),
        (LOCAL, {"weight_decay": 0.0}, {}, "cifar10, 100 epochs, weight_decay 0"),
        (
            LOCAL,
            {},
            {"perturb.granularity": "block", "aux.hidden": 8},
            "cifar10, 100 epochs, aux.hidden 8, perturb.granularity block",
        ),
        (LOCAL, {}, {"trainer.limit_train_batches": 3}, "cifar10, 100 epochs, trainer.limit_train_batches 3"),
        (LOCAL, {}, {"trainer.max_time": {"hours": 8}}, "cifar10, 100 epochs, trainer.max_time.hours 8"),
        (replace(LOCAL, width=0.25), {}, {}, "cifar10, 100 epochs"),
        (replace(LOCAL, data="digits"), {"epochs": 5}, {}, "digits, 5 epochs"),
    ],
)
def test_runs_away_from_the_papers_setting_stand_apart_under_what_was_trained(
    tmp_path, trained, changes, options, words
):
    scores = results_of(tmp_path, result(trained, 0.8, like=LOCAL, settings=options, **changes))
    assert not fill(LAYOUTS[3], scores).run
    (apart,) = scaled(scores, [3])
    assert (str(apart.scale), list(apart.scores)) == (words, [trained])
    assert apart.scores[trained].mean == pytest.approx(80.0)


def test_a_run_on_other_data_stands_once(tmp_path):
    runs = [result(replace(LOCAL, data="digits", aux=aux), 0.8, like=LOCAL, epochs=5) for aux in ("cnn", "mlp")]
    scores = results_of(tmp_path, *runs)
    assert not any(fill(layout, scores).run for layout in LAYOUTS.values())
    (apart,) = scaled(scores, TABLES)
    assert [cell.aux for cell in apart.scores] == ["cnn", "mlp"]
    assert apart.columns == ["guess", "auxiliary"]
    assert [words for words, _ in apart.lines] == [["local", "cnn"], ["local", "mlp"]]
    assert apart.shared == "target global, blocks 8, width 1"
    assert scaled(scores, [9]) == ()  # Table 9 has no cell like it


def test_chance_is_one_of_the_classes_and_above_it_means_an_interval(tmp_path):
    def above(*accuracies):
        folder = tmp_path / str(accuracies)
        runs = (
            result(replace(LOCAL, width=0.25), accuracy, seed, like=LOCAL) for seed, accuracy in enumerate(accuracies)
        )
        ((apart,),) = [scaled(results_of(folder, *runs), [3])]
        (score,) = apart.scores.values()
        assert apart.chance == score.chance == 10
        return score.above_chance

    assert above(0.2, 0.21, 0.22)
    assert not above(0.9)  # one run has no interval
    assert not above(0.08, 0.14, 0.2)
    assert not above(0.01, 0.02, 0.03)


def test_what_the_paper_does_not_print_is_compared_with_nothing(tmp_path):
    gaussian = cell("cifar10 8 1 global gaussian - weight")
    scores = results_of(tmp_path, result(gaussian, 0.5, 0), result(gaussian, 0.6, 1))
    entry = entry_of(3, scores, gaussian)
    assert (entry.full.mean, entry.difference, entry.status, entry.paper) == (
        pytest.approx(55),
        None,
        "alone",
        "not printed",
    )
    (line,) = (line for _, line in as_frame([fill(LAYOUTS[3], scores)], []).iterrows() if line["status"] == "alone")
    assert line[["paper_mean", "paper_std", "difference"]].isna().all()
    assert (line["mean"], line["seeds"], line["paper_seeds"]) == (pytest.approx(55), 2, 4)


def test_a_run_stopped_early_is_scaled_down(tmp_path):
    scores = results_of(tmp_path, {**result(LOCAL, 0.8), "epoch": 49})
    assert [str(one.scale) for one in scaled(scores, [3])] == ["cifar10, 100 epochs, stopped after epoch 50"]


def test_different_settings_are_never_averaged(tmp_path):
    ten = [result(LOCAL, accuracy, seed, epochs=10) for seed, accuracy in enumerate((0.6, 0.8))]
    full, twenty = result(LOCAL, 0.93, seed=5), result(LOCAL, 0.85, epochs=20)
    scores = results_of(tmp_path, *ten, twenty, full)
    assert entry_of(3, scores).full.seeds == (5,)
    assert {str(one.scale): (one.scores[LOCAL].mean, one.seeds) for one in scaled(scores, [3])} == {
        "cifar10, 10 epochs": (pytest.approx(70), [0, 1]),
        "cifar10, 20 epochs": (pytest.approx(85), [0]),
    }


def test_data_of_the_paper_stand_for_themselves_only(tmp_path):
    there = replace(LOCAL, data="cifar100")
    scores = results_of(tmp_path, result(there, 0.6))
    assert list(scores.full) == [there]
    assert {row.cell.data for row in like(there)} == {"cifar100"}
    assert len({row.cell.data for row in like(replace(LOCAL, data="digits"))}) > 1


def test_a_repeated_seed_counts_once_and_is_named(tmp_path):
    scores = results_of(tmp_path, result(LOCAL, 0.92), result(LOCAL, 0.60))
    assert entry_of(3, scores).full.mean == pytest.approx(92.0)
    assert [problem.path.name for problem in scores.repeated] == ["run1"]


def test_cells_that_the_paper_does_not_have_are_kept_apart(tmp_path):
    scores = results_of(tmp_path, result(cell("cifar10 8 1 local local cnn weight"), 0.9, like=LOCAL))
    assert (scores.by_scale, len(scores.others)) == ({FULL: {}}, 1)


def test_the_csv_has_a_line_for_each_cell_and_for_each_one_scaled_down(tmp_path):
    full = (result(LOCAL, accuracy, seed) for seed, accuracy in enumerate((0.93, 0.935, 0.9434567)))
    scores = results_of(tmp_path, *full, result(replace(LOCAL, aux="mlp"), 0.5, epochs=2))
    frame = as_frame([fill(LAYOUTS[3], scores)], scaled(scores, [3]))
    assert frame["status"].value_counts().to_dict() == {"missing": 33, "more": 1, "scaled": 1}
    full = frame[frame["status"] == "more"].iloc[0]
    assert (full["mean"], full["paper_mean"], full["seeds"]) == (pytest.approx(93.6152233), 92.0, 3)
    assert full["accuracies"] == "0:93.00000 1:93.50000 2:94.34567"
    assert full["low"] < full["difference"] < full["high"]
    scaled_down = frame[frame["status"] == "scaled"].iloc[0]
    assert (scaled_down["mean"], scaled_down["scale"]) == (50.0, "cifar10, 2 epochs")
    assert scaled_down[["table", "paper_mean", "difference"]].isna().all()
