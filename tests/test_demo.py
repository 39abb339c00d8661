"""The demo's rows are where other seeds have them."""

import pytest
from forked import ROOT

from fglight import demo

SHORT = "model.width=0.125 trainer.max_epochs=2"
MEASURED = {
    "end-to-end backpropagation": ("test", 70.2, 2.2),
    "local guess, weight": ("test", 50.1, 5.6),
    "local guess, activity": ("test", 55.3, 5.1),
    "gaussian guess, weight": ("train", 19.7, 3.5),
    "gaussian guess, activity": ("train", 40.9, 12.0),
    "control: blocks left untrained": ("test", 53.5, 4.8),
}
"""Accuracy in percent and its deviation over five seeds, as it is printed by

    python -c 'from fglight import demo; demo.SEEDS = range(2, 7); demo.main("SHORT".split())'

After two epochs, networks trained with Gaussian guesses are at chance on test images: of them it is that of training.
"""
SEEDS = (0, 1, 7, 8)
CHANCE = 10


def window(row):
    """Where the mean of four other seeds lies: within four of its deviations."""
    _, mean, deviation = MEASURED[row]
    reach = 4 * deviation / len(SEEDS) ** 0.5
    return mean - reach, mean + reach


@pytest.mark.parametrize("row", MEASURED)
def test_a_window_leaves_chance_out(row):
    assert window(row)[0] > CHANCE


def test_the_windows_are_of_the_short_demo_s_rows():
    assert list(MEASURED) == [name for name, _ in demo.CELLS]
    assert f"fglight demo {SHORT}\n" in (ROOT / "Makefile").read_text()


@pytest.mark.slow
def test_every_row_is_where_other_seeds_have_it(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(demo, "SEEDS", SEEDS)
    assert demo.main([*SHORT.split(), "trainer.enable_progress_bar=false"]) == 0
    cells = [[part.strip() for part in line.split("│")] for line in capsys.readouterr().out.splitlines()]
    rows = {parts[1]: dict(zip(("test", "train"), parts[2:4])) for parts in cells if len(parts) == 6}
    assert rows.keys() == MEASURED.keys()
    for row, (split, *_) in MEASURED.items():
        low, high = window(row)
        assert low < float(rows[row][split].split()[0]) < high, f"{row}: {rows[row]}"
