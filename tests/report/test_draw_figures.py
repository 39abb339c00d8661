"""Figures 2 to 9: which runs they show, what they plot and how that looks."""

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib import image
from written_runs import ROWS, curves, result, write_metrics, write_run

import fglight.paper
from fglight.paper.figures import FIGURES
from fglight.report.draw_figures import STYLES, compose, plot, saved
from fglight.report.results import FULL, sort_runs
from fglight.runs.collect import collect

EPOCHS = 4


def write_figure(root, number, seeds=2, curve_indices=None, **changes):
    """Runs of a figure's curves with four epochs of metrics; returns the metrics by curve and seed."""
    written = {}
    for index, curve in enumerate(FIGURES[number].curves):
        if curve_indices is not None and index not in curve_indices:
            continue
        for seed in range(seeds):
            name = f"{curve.cell.target}-{curve.cell.guess}-{curve.cell.aux}-{seed}-{len(changes)}"
            metrics = curves(curve.cell.blocks, EPOCHS, 10 * index + seed, shift=index)
            settings = {"probe": True, "aux.name": curve.probe} if curve.probe else {}
            ended = result(curve.cell, 0.9, seed, settings=settings, **changes)
            write_metrics(write_run(root / name, ended), metrics)
            written[curve.label, seed] = metrics
    return written


def plotted(root, number):
    return plot(FIGURES[number], sort_runs(collect([root]).finished))


def first(drawn):
    """The lines of a figure's first panel."""
    return drawn.lines[drawn.figure.panels[0][0]]


def ends(metrics, column):
    return metrics[column].dropna().to_numpy()


def test_the_figures_are_2_to_9_and_their_cells_have_recipes():
    assert list(FIGURES) == list(range(2, 10))
    for figure in FIGURES.values():
        for curve in figure.curves:
            assert curve.cell in ROWS
            assert curve.label in STYLES
            assert (curve.probe == "cnn") == (figure.number in (2, 7) and curve.cell.aux == "")
    assert [figure.blocks for figure in FIGURES.values() if figure.cosine] == [(0, 3, 6)] * 2 + [(0, 7, 14)] * 2


def test_the_cells_of_the_figures_need_no_plotting_library():
    for source in Path(fglight.paper.__file__).parent.glob("*.py"):
        assert "import matplotlib" not in source.read_text()
        assert "import pandas" not in source.read_text()


@pytest.mark.parametrize("number", [2, 7])
def test_local_losses_at_the_end_are_shown_by_block(tmp_path, number):
    written = write_figure(tmp_path, number)
    drawn = plotted(tmp_path, number)
    ((panel, lines),) = drawn.lines.items()
    assert (panel.x, panel.y, drawn.missing) == ("Block", "Local train loss (nats)", ())
    assert [line.label for line in lines] == [curve.label for curve in FIGURES[number].curves]
    blocks = FIGURES[number].curves[0].cell.blocks
    for line in lines:
        assert line.values.shape == (blocks, 2)
        for seed in range(2):
            metrics = written[line.label, seed]
            expected = [ends(metrics, f"train/local_loss/block{j}")[-1] for j in range(blocks - 1)]
            np.testing.assert_allclose(line.values[seed], [*expected, ends(metrics, "train/loss")[-1]])


@pytest.mark.parametrize("number", [3, 6])
def test_train_and_test_losses_are_shown_by_epoch(tmp_path, number):
    written = write_figure(tmp_path, number)
    for (panel, lines), split in zip(plotted(tmp_path, number).lines.items(), ("train", "test")):
        assert (panel.x, panel.y) == ("Epoch", "Cross-entropy (nats)")
        for line in lines:
            assert line.values.index.tolist() == [1, 2, 3, 4]
            for seed in range(2):
                np.testing.assert_allclose(line.values[seed], ends(written[line.label, seed], f"{split}/loss"))


@pytest.mark.parametrize("number", [4, 5, 8, 9])
def test_local_losses_and_cosines_are_shown_for_three_blocks(tmp_path, number):
    written = write_figure(tmp_path, number)
    drawn = plotted(tmp_path, number)
    for j, loss, cosine in zip(FIGURES[number].blocks, *drawn.figure.panels):
        assert loss.title == cosine.title == f"Block {j}"
        assert (loss.y, cosine.y) == ("Local loss (nats)", "Cosine similarity")
        assert [line.label for line in drawn.lines[cosine]] == ["CNN", "MLP", "Linear"]
        assert [(line.label, line.dashed) for line in drawn.lines[loss][:2]] == [("CNN", False), ("CNN", True)]
        for line in drawn.lines[loss]:
            split = "test" if line.dashed else "train"
            expected = ends(written[line.label, 1], f"{split}/local_loss/block{j}")
            np.testing.assert_allclose(line.values[1], expected)
        for line in drawn.lines[cosine]:
            expected = ends(written[line.label, 0], f"cosine/block{j}")
            np.testing.assert_allclose(line.values[0], expected)
            assert 0 < line.values.index.min() < line.values.index.max() < EPOCHS


def test_a_figure_names_what_is_missing(tmp_path):
    write_figure(tmp_path, 2, curve_indices=(1, 2))
    end_to_end = FIGURES[2].curves[0].cell
    write_metrics(write_run(tmp_path / "no_probe", result(end_to_end, 0.94)), curves(8, EPOCHS, local=False))
    drawn = plotted(tmp_path, 2)
    assert [line.label for line in first(drawn)] == ["Local learning", "Local guess, global target"]
    assert drawn.missing == (
        "End-to-end: not run with probe=true aux=cnn",
        "Gaussian guess, global target: not run with probe=true aux=cnn",
        "Gaussian guess, local target: not run",
    )


def test_a_probe_is_shown_even_if_a_plain_run_or_another_probe_has_its_seed(tmp_path):
    end_to_end = FIGURES[2].curves[0].cell
    write_metrics(write_run(tmp_path / "a", result(end_to_end, 0.94)), curves(8, EPOCHS, local=False))
    for folder, aux in (("b", "mlp"), ("c", "cnn")):
        probed = result(end_to_end, 0.94, settings={"probe": True, "aux.name": aux})
        write_metrics(write_run(tmp_path / folder, probed), curves(8, EPOCHS, shift=9 if aux == "mlp" else 0))
    (line,) = first(plotted(tmp_path, 2))
    assert (line.label, line.values.shape) == ("End-to-end", (8, 1))
    assert line.values.max(axis=None) < 9  # the CNN's


def test_a_figure_without_runs_has_no_panels(tmp_path):
    write_figure(tmp_path, 4)
    drawn = plotted(tmp_path, 3)
    assert drawn.lines == {}
    assert drawn.missing == tuple(f"{curve.label}: not run" for curve in FIGURES[3].curves)


def test_runs_of_one_setting_are_shown_and_full_scale_ones_first(tmp_path):
    write_figure(tmp_path, 3, curve_indices=(1, 2), epochs=4)
    write_figure(tmp_path, 3, curve_indices=(0, 1, 3), epochs=4, batch_size=32)
    drawn = plotted(tmp_path, 3)
    assert str(drawn.scale) == "cifar10, 4 epochs, batch_size 32"  # the one with most curves
    assert drawn.missing == ("NTK guess: not run",)
    write_figure(tmp_path, 3, curve_indices=(2,))
    drawn = plotted(tmp_path, 3)
    assert (drawn.scale, [line.label for line in first(drawn)]) == (FULL, ["NTK guess"])


def test_of_runs_that_cover_as_much_those_nearest_to_the_papers_are_shown(tmp_path):
    write_figure(tmp_path / "short", 3, epochs=1)
    write_figure(tmp_path / "longer", 3, epochs=10)
    write_figure(tmp_path / "small", 3, epochs=10, batch_size=32)
    assert str(plotted(tmp_path, 3).scale) == "cifar10, 10 epochs"


def test_digits_stand_in_and_say_so(tmp_path):
    for index, curve in enumerate(FIGURES[4].curves):
        run = write_run(
            tmp_path / str(index),
            result(replace(curve.cell, data="digits"), 0.9, like=curve.cell, epochs=10, lr_step=4),
        )
        write_metrics(run, curves(8, EPOCHS, index))
    drawn = plotted(tmp_path, 4)
    assert (str(drawn.scale), drawn.missing) == ("digits, 10 epochs", ())
    assert compose(drawn).get_suptitle() == "Scaled down: digits, 10 epochs."


def test_damaged_metrics_are_reported_and_the_rest_is_drawn(tmp_path):
    write_figure(tmp_path, 3)
    damaged = tmp_path / "global-ntk-cnn-1-0/metrics/version_0/metrics.csv"
    damaged.write_text(damaged.read_text()[:-20])
    runs = collect([tmp_path])
    drawn = plot(FIGURES[3], sort_runs(runs.finished))
    assert {problem.path for problem in runs.problems} == {damaged}
    (ntk,) = [line for line in first(drawn) if line.label == "NTK guess"]
    assert ntk.values.isna().sum().tolist() == [0, 1]


@pytest.mark.parametrize("number", [2, 3, 4])
def test_a_figure_is_legible(tmp_path, number):
    """Named axes, a legend inside the page, no small print, colours and markers that differ."""
    write_figure(tmp_path, number)
    missing = tuple(f"Gaussian guess, some other target {index}: not run" for index in range(5))
    canvas = compose(replace(plotted(tmp_path, number), missing=missing))
    canvas.draw_without_rendering()
    assert canvas.get_size_inches()[0] <= 7
    (legend,) = canvas.legends
    for text in [*legend.get_texts(), canvas._suptitle]:
        box, page = text.get_window_extent(), canvas.bbox
        assert page.x0 <= box.x0 < box.x1 <= page.x1
        assert text.get_fontsize() >= 7
    for ax in canvas.axes:
        assert ax.get_xlabel() in ("Epoch", "Block")
        assert ax.get_ylabel() or ax not in (canvas.axes[0], canvas.axes[-3:][0])
        assert all(
            label.get_fontsize() >= 7 for label in [*ax.get_xticklabels(), *ax.get_yticklabels(), ax.xaxis.label]
        )
    looks = {(line.get_color(), line.get_marker()) for line in canvas.axes[0].lines}
    assert len(looks) == len(FIGURES[number].curves)
    assert len({colour for colour, _ in looks}) == len({marker for _, marker in looks}) == len(looks)
    assert len(canvas.axes[0].collections) == len(canvas.axes[0].lines)  # a band around each mean of two seeds


def test_the_mean_and_its_band_are_over_seeds(tmp_path):
    written = write_figure(tmp_path, 3, seeds=3, curve_indices=(1,))
    ax = compose(plotted(tmp_path, 3)).axes[0]
    seeds = np.stack([ends(metrics, "train/loss") for metrics in written.values()])
    np.testing.assert_allclose(ax.lines[0].get_ydata(), seeds.mean(axis=0))
    seeds = np.stack([seeds[0], seeds[0] + 1])
    frame = pd.DataFrame(seeds.T, index=[1, 2, 3, 4])
    drawn = plotted(tmp_path, 3)
    ((panel, *_),) = drawn.figure.panels
    line = replace(first(drawn)[0], values=frame)
    (band,) = compose(replace(drawn, lines={**drawn.lines, panel: (line,)})).axes[0].collections
    assert band.get_paths()[0].vertices[:, 1].max() - frame.mean(axis=1).max() == pytest.approx(
        0.5**0.5
    )  # the deviation of two that differ by 1


def test_a_drawing_is_a_png_and_a_pdf(tmp_path):
    write_figure(tmp_path, 3, seeds=1, curve_indices=(0, 1))
    canvas = compose(plotted(tmp_path, 3))
    drawing = saved(canvas, dpi=100)
    pixels = image.imread(io.BytesIO(drawing["png"]))
    assert [*pixels.shape[1::-1]] == pytest.approx([100 * inches for inches in canvas.get_size_inches()], abs=1)
    assert 0.02 < (pixels[..., :3].min(axis=2) < 0.9).mean() < 0.5  # neither blank nor filled
    assert drawing["pdf"].startswith(b"%PDF-")
    assert drawing == saved(compose(plotted(tmp_path, 3)), dpi=100)  # the same runs give the same files


@pytest.mark.parametrize("number", [3, 5])
@pytest.mark.parametrize("epochs", [1, 4])
def test_panels_share_whole_epochs_and_tell_train_from_test_by_their_markers(tmp_path, number, epochs):
    write_figure(tmp_path, number, epochs=epochs)
    drawn = plotted(tmp_path, number)
    drawn = replace(drawn, lines={panel: up_to(epochs, lines) for panel, lines in drawn.lines.items()})
    canvas = compose(drawn)
    for lines, ax in zip(drawn.lines.values(), canvas.axes):
        assert ax.get_xlim() == canvas.axes[0].get_xlim()
        low, high = ax.get_xlim()
        assert low == 0
        assert epochs <= high < epochs + 1
        assert all(float(tick).is_integer() for tick in ax.get_xticks() if low <= tick <= high)
        for line, curve in zip(ax.lines, lines):
            assert (line.get_markerfacecolor() == "white") == curve.dashed


def up_to(epochs, lines):
    return tuple(replace(line, values=line.values[line.values.index <= epochs]) for line in lines)
