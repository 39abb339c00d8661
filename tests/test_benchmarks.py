"""The benchmarks run, and what they measure is what a hand computes. Nothing here depends on how long a step takes."""

import json
import re
import sys
from itertools import accumulate
from pathlib import Path

import pandas as pd
import pytest
import torch
from helpers import CHECKPOINTS_HAVE_TANGENTS
from torch import nn

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

import auxiliaries  # noqa: E402
import cases  # noqa: E402
import depth  # noqa: E402
import example_reports  # noqa: E402
import findings  # noqa: E402
import finite  # noqa: E402
import flops  # noqa: E402
import gpu  # noqa: E402
import layers  # noqa: E402
import memory  # noqa: E402
import networks  # noqa: E402
import step_time  # noqa: E402
import table1  # noqa: E402
import timing  # noqa: E402

CPU = torch.device("cpu")
SMALL = {"batch": 4, "width": 1 / 32, "repeats": 1, "device": CPU}


def case(name):
    return next(case for case in cases.CASES if case.name == name)


@pytest.fixture(scope="module")
def problem():
    return cases.build_network(8, 1 / 32, CPU), *cases.random_batch(4, CPU)


def test_memory_is_what_a_hand_computes():
    model = nn.Linear(1, 1)

    def step():
        a = torch.empty(1000, 1000)
        b = a.exp()  # two matrices
        c = (a @ b).neg_()  # three
        del a, b
        model.weight.grad = c.sum().view(1, 1)

    assert memory.peak(step, model, CPU) == pytest.approx(3 * 4e6, abs=100)
    assert sum(memory.allocations(step, model)) == 4  # the gradient stays


def test_memory_inside_operations_counts():
    model = nn.Linear(1, 1)

    def step():
        torch.empty(1000, 1000).square().sum()

    sizes = memory.allocations(step, model)
    assert max(accumulate(sizes)) == pytest.approx(2 * 4e6, abs=100)
    assert sum(sizes) == 0


def test_forward_mode_takes_less_memory_than_backpropagation(problem):
    model = problem[0]
    peaks = [
        memory.peak(step, model, CPU)
        for step in (
            cases.estimation(case("gaussian guess, weight, network, forward mode"), *problem),
            cases.backpropagation(*problem),
            cases.estimation(case("local guess, weight per sample"), *problem),
        )
    ]
    assert peaks == sorted(peaks)


def test_backpropagation_is_three_forward_passes(problem):
    model, images, _ = problem
    unit = flops.count(lambda: model(images), model)
    assert (unit.activations, unit.weights, unit.tangents) == (0, 0, 0)
    counted = flops.count(cases.backpropagation(*problem), model) / unit.total
    assert counted.forward == pytest.approx(1)
    assert counted.total == pytest.approx(3, rel=0.06)  # the images take no gradient
    assert counted.tangents == 0


def test_dual_numbers_are_counted_as_tangents():
    model = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.ReLU(), nn.Conv2d(4, 4, 3, bias=False))
    x = torch.randn(2, 3, 8, 8)
    unit = flops.count(lambda: model(x), model).total
    parameters = dict(model.named_parameters())

    def run(*primals):
        return torch.func.functional_call(model, dict(zip(parameters, primals[1:])), primals[:1])

    primals = (x, *(p.detach() for p in parameters.values()))
    counted = flops.count(lambda: torch.func.jvp(run, primals, tuple(torch.randn_like(p) for p in primals)), model)
    assert (counted / unit).forward == 1
    assert (counted / unit).tangents == 2
    assert counted.activations == counted.weights == 0


def test_forward_mode_has_no_backward_pass_through_the_network(problem):
    model, images, _ = problem
    unit = flops.count(lambda: model(images), model).total
    step = cases.estimation(case("gaussian guess, weight, network, forward mode"), *problem)
    counted = flops.count(step, model) / unit
    assert counted.forward == pytest.approx(1)
    assert counted.activations + counted.weights < 0.35  # the last of eight blocks
    assert counted.tangents > 1.5


def test_every_step_is_timed_next_to_the_baseline():
    order = []
    seconds, times = timing.compare(
        lambda: order.append("base"), {name: lambda name=name: order.append(name) for name in "ab"}, 2, CPU
    )
    assert order == ["base", "a", "base", "b"] * 3
    assert seconds > 0
    assert set(times) == {"a", "b"}


@pytest.mark.slow
def test_tables_have_a_row_for_every_case(monkeypatch):
    monkeypatch.setattr(step_time, "CASES", cases.CASES[-3:])
    rows = step_time.measure(8, **SMALL)
    assert [row[0] for row in rows] == ["backpropagation", *(case.name for case in cases.CASES[-3:])]
    assert {len(row) for row in rows} == {len(step_time.HEADER)}


@pytest.mark.slow
@pytest.mark.parametrize("name", networks.NETWORKS)
def test_networks_of_other_packages_have_a_row_for_every_case(name):
    rows = networks.measure(networks.NETWORKS[name](2), repeats=1)
    assert sorted(row[0] for row in rows) == sorted(["backpropagation", *networks.GOALS])
    assert f"## {name}\n" in networks.RESULTS.read_text()


@pytest.mark.parametrize("name", networks.NETWORKS)
def test_no_layer_of_theirs_takes_a_backward_pass_through_the_block_for_each_sample(name):
    network, batch, _ = networks.NETWORKS[name](3)
    slow = {check.why for check in layers.COLUMNS["`weight_per_sample`"].check(network, batch) if check.path != "fast"}
    tables = {"no formula for the operations that take it: a backward pass through these alone for each sample"}
    assert slow == (set() if name == "EfficientNet-Lite0" else tables)


@pytest.mark.slow
def test_table1_measures_every_pair(monkeypatch):
    monkeypatch.setattr(table1, "PAIRS", [table1.PAIRS[0], table1.PAIRS[2], table1.PAIRS[4]])
    rows = [dict(zip(table1.HEADER, row)) for row in table1.measure(8, **SMALL)]
    assert len(rows) == sum(len(pair.cases) for pair in table1.PAIRS)
    assert float(rows[0]["vJp"]) == pytest.approx(2, rel=0.1)
    assert rows[0]["Jvp"] == "0.00"
    for row in rows:
        assert row["engine"] == "reverse" or float(row["Jvp"]) > 0 or "activity" in row["ran as"]


@pytest.mark.slow
def test_memory_over_depth(tmp_path):
    depths = (4, 8)
    peaks = depth.measure(depths, batch=16, channels=8, size=16)
    growth = {name: after.activations / before.activations for name, (before, after) in peaks.items()}
    assert growth["backpropagation"] > 1.6
    assert growth["gaussian guess, network, forward mode"] < 1.1
    assert growth["gaussian guess, network, finite differences, redrawn"] < 1.1
    before, after = peaks["backpropagation, checkpointed"]
    assert after.activations - before.activations == 4 * (16 * 8 * 16 * 16) * 4  # an input a block, in float32
    assert {len(row) for row in depth.rows(depths, peaks)} == {len(depth.HEADER)}
    depth.draw(depths, peaks, "", tmp_path / "figures" / "depth.png")
    assert (tmp_path / "figures" / "depth.png").stat().st_size > 10_000


def test_finite_differences_take_the_memory_of_inference():
    """And of the directions, where they are kept; at sizes where activations are larger than all weights."""
    model, batch = cases.build_network(8, 1 / 16, CPU), cases.random_batch(64, CPU)
    inference = memory.peak(cases.inference(model, *batch), model, CPU)
    directions = sum(p.nbytes for block in model.blocks[:-1] for p in block.body.parameters())
    name = "gaussian guess, weight, network, finite differences"
    kept, redrawn = (
        memory.peak(cases.estimation(case(name), model, *batch), model, CPU) for name in (name, f"{name}, redrawn")
    )
    assert redrawn < 1.05 * inference
    assert inference < kept < 1.03 * (inference + directions)


@pytest.mark.slow
def test_errors_of_finite_differences_over_the_step(tmp_path):
    steps = [1e-3, 1e-4]
    errors = finite.measure(steps, batch=2, width=1 / 32, directions=1)
    assert errors["SiLU", torch.float64][0] / errors["SiLU", torch.float64][1] == pytest.approx(100, rel=0.1)
    finite.draw(steps, errors, "", tmp_path / "finite.png")
    assert (tmp_path / "finite.png").stat().st_size > 10_000


@pytest.mark.slow
def test_gpu_results_are_filed_as_they_come(tmp_path):
    gpu._write(tmp_path, {"command": "", "machine": "", "test": True, "sections": {}, "ended": {}})
    gpu.throughput(gpu.Setting(CPU, small=True, out=tmp_path, section="throughput"))
    assert len(json.loads((tmp_path / "GPU.json").read_text())["sections"]["throughput"]["rows"]) == 2
    text = (tmp_path / "GPU.md").read_text()
    assert "these numbers mean nothing" in text
    assert text.count("Nothing measured.") == len(gpu.SECTIONS) - 1


def test_gpu_script_refuses_to_do_without_one(tmp_path, monkeypatch, capsys):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--out", str(tmp_path)])
    with pytest.raises(SystemExit):
        gpu.main()
    assert "torch finds no GPU here" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("form", auxiliaries.FORMS)
def test_what_the_docs_say_of_auxiliaries_is_what_they_cost(form):
    assert auxiliaries.row(form) in (BENCHMARKS.parent / "docs/auxiliaries.md").read_text().splitlines()


@pytest.mark.parametrize("tables", [findings.published, findings.tables, findings.fronts])
def test_the_tables_of_the_findings_are_those_of_the_committed_results(tables):
    page = (BENCHMARKS.parent / "docs/findings.md").read_text()
    assert [name for name, table in tables().items() if table not in page] == []


def test_findings_are_printed_from_numbers_of_full_precision():
    """Two of 94.35185 and 94.35186 are 94.4, where two of 94.3 are 94.3."""
    means = findings.results()["mean"]
    assert (means != means.round(4)).any()
    row = pd.DataFrame([{"derivatives": 1, "estimator": "any", "mean": 94.35185, "std": 0.04999}])
    assert findings.front(row).endswith("| 1 | any | 94.4 ± 0.0 |")


@pytest.mark.parametrize("name", example_reports.ARGUMENTS)
def test_the_example_reports_are_what_the_command_makes_of_their_runs(name, tmp_path, monkeypatch):
    """``make examples`` writes them anew. Drawings depend on fonts, and count by their names."""
    monkeypatch.setattr("matplotlib.figure.Figure.savefig", lambda *_, **__: None)

    def texts(folder):
        files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
        drawn = {file: "" for file in files if file.startswith("figures/")}
        return drawn | {
            file: re.sub(r'src="data:[^"]*"', "", path.read_text()) for file, path in files.items() if file not in drawn
        }

    assert example_reports.make(name, tmp_path / name) == 0
    made, committed = texts(tmp_path / name), texts(example_reports.EXAMPLE / name)
    assert [file for file in made.keys() | committed.keys() if made.get(file) != committed.get(file)] == []


@pytest.mark.skipif(not CHECKPOINTS_HAVE_TANGENTS, reason="the page is of a later torch")
@pytest.mark.filterwarnings("ignore")
def test_what_the_docs_say_of_torchs_layers_is_what_check_tells():
    def in_our_words(page):  # what torch says of its own depends on its version
        return re.sub(r"(?m)^(\d+\. ).*: (?=use operations)", r"\1", page)

    written = layers.PAGE.read_text()
    assert in_our_words(layers.page(written)) == in_our_words(written)


def test_the_docs_leave_out_no_layer_of_torchs_that_has_parameters():
    def stands_alone(name):
        return not re.match("Lazy|RNN.*Base|SyncBatchNorm|Transformer$|AdaptiveLogSoftmaxWithLoss", name)

    having = [name for name in nn.modules.__all__ if hasattr(getattr(nn, name), "reset_parameters")]
    assert {f"`{name}`" for name in having if stands_alone(name)} <= set(layers.cases())
