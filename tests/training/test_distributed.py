"""Two processes on parts of a batch give the estimate of one process on all of it."""

import os
import signal
import subprocess
import sys
import time
from functools import partial
from itertools import product
from pathlib import Path

import lightning as L
import pytest
import torch
import torch.distributed as dist
from forked import PROCESSES, ROOT
from helpers import ALL_PERTURBATIONS, assert_close, assert_same_gradients, estimator_of, gradients, snapshot
from torch import nn
from torch.utils.data import DataLoader

from fglight.estimators import RandomGuess
from fglight.models import Block, BlockNetwork, SeveralAuxiliaries
from fglight.runs.folder import read_result
from fglight.training.module import ForwardGradientModule

PARTS = (5, 3)
"""Samples of each process: uneven, as a last batch may be."""

CASES = {
    f"{engine} {target} {guess} {perturb} {granularity} {directions}": (
        {"perturb.granularity": granularity} | ({"guess.directions": directions} if directions > 1 else {}),
        {"engine": engine, "target": target, "guess": guess, "perturb": perturb},
    )
    for engine, target, guess, (perturb, granularity), directions in product(
        ("reverse", "forward"),
        ("global", "local", "intermediate"),
        ("exact", "local", "ntk", "gaussian"),
        ALL_PERTURBATIONS,
        (1, 2),
    )
    if not (
        directions > 1
        and (
            target != "global" or guess not in ("ntk", "gaussian") or perturb in ("activity_span", "weight_per_sample")
        )
    )
    if not (engine == "forward" and guess == "exact")
    if not (guess == "exact" and granularity != "tensor")
}

CASES |= {
    f"{engine} global local {perturb} {granularity} {coefficient}": (
        {"perturb.granularity": granularity, "perturb.coefficient": coefficient},
        {"engine": engine, "target": "global", "guess": "local", "perturb": perturb},
    )
    for engine, (perturb, granularity, coefficient) in product(
        ("reverse", "forward"),
        (
            ("activity", "channel", "positive"),
            ("weight_per_sample", "tensor", "positive"),
            ("weight", "tensor", "sign"),
            ("weight", "block", "random_sign"),
            ("activity", "sample", "one"),
        ),
    )
}

CASES |= {
    f"{engine} global {guess} {perturb}": ({}, {"engine": engine, "guess": guess, "perturb": perturb})
    for engine, (guess, perturb) in product(
        ("reverse", "forward"),
        (
            *product(("dfa", "drtp", "mixing", "next_block"), ("activity", "weight", "activity_span")),
            ("momentum", "weight"),
        ),
    )
    if (engine, guess) != ("forward", "next_block")
}

CASES |= {
    f"{engine} global {guess} {perturb} {granularity} {combine}, several": (
        {"perturb.granularity": granularity, "guess.combine": combine},
        {"engine": engine, "target": "global", "guess": guess, "perturb": perturb},
    )
    for engine, (guess, perturb, granularity, combine) in product(
        ("reverse", "forward"),
        (
            ("local", "weight", "tensor", "span"),
            ("local", "weight", "block", "max"),
            ("local", "weight", "network", "mean"),
            ("local", "activity", "channel", "max"),
            ("local", "activity_span", "sample", "mean"),
            ("local", "weight_per_sample", "tensor", "span"),
            ("guided", "weight", "tensor", "mean"),
            ("low_rank", "weight", "filter", "mean"),
        ),
    )
}
"""With two auxiliary networks for each block."""

CASES |= {
    f"finite {target} {guess} {granularity}": (
        {"perturb.granularity": granularity, "engine.step": 1e-3},
        {"engine": "finite", "target": target, "guess": guess},
    )
    for target, guess, granularity in product(("global", "local"), ("local", "gaussian"), ("tensor", "network"))
}

COMPILED = (
    "reverse global local weight tensor 1",
    "reverse local gaussian activity sample 1",
    "reverse intermediate ntk weight_per_sample tensor 1",
    "forward global gaussian weight network 1",
    "reverse global dfa activity",
)

CLIPPED = [
    (f"{engine} clipped{' compiled' * compiled}", engine, compiled)
    for engine, compiled in product(("reverse", "forward"), (False, True))
]


def network(*, several=False):
    """Blocks that couple no samples, with one or two auxiliary networks, and a batch."""
    torch.manual_seed(0)
    bodies = [
        nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.GroupNorm(2, 4), nn.ReLU()),
        nn.Sequential(nn.Conv2d(4, 4, 3, 2), nn.Tanh(), nn.Flatten()),
        nn.Sequential(nn.Linear(16, 6, bias=False), nn.LayerNorm(6), nn.ReLU()),
        nn.Linear(6, 6),
    ]
    auxes = [nn.Sequential(nn.Flatten(), nn.Linear(width, 3)) for width in (100, 16, 6, 6)]
    if several:
        auxes[:-1] = [
            SeveralAuxiliaries([aux, nn.Sequential(nn.Flatten(), nn.Tanh(), nn.Linear(aux[1].in_features, 3))])
            for aux in auxes[:-1]
        ]
    blocks = [Block(body, aux).double() for body, aux in zip(bodies, auxes)]
    count = sum(PARTS)
    return blocks, torch.randn(count, 2, 5, 5, dtype=torch.float64), torch.randint(3, (count,))


def estimates(rows):
    """Gradients and cosines of every case for some rows of the batch."""
    results = {}
    for name, (settings, choices) in CASES.items():
        blocks, images, labels = network(several="several" in name)
        estimator = estimator_of(settings, **choices)
        if estimator.draws_by_sample:
            share_directions(estimator.guess, rows)
        torch.manual_seed(1)
        step = estimator.estimate(blocks, images[rows], labels[rows], cosine=True)
        results[name] = gradients(blocks), step.cosine
        if name in COMPILED:
            estimator.compile(lambda graph, inputs: graph)
            for _ in range(3):  # the third replays the second
                torch.manual_seed(1)
                estimator.estimate(blocks, images[rows], labels[rows])
            results[f"{name} compiled"] = gradients(blocks), None
    for name, engine, compiled in CLIPPED:
        results[name] = clipped(rows, engine, compiled=compiled), None
    return results


def clipped(rows, engine, *, compiled):
    """How three clipped steps of training move the parameters."""
    blocks, images, labels = network()
    estimator = estimator_of(engine=engine)
    if compiled:
        estimator.compile(lambda graph, inputs: graph)
    model = BlockNetwork(blocks)
    before = snapshot(model)
    module = ForwardGradientModule(model, estimator, optimizer=partial(torch.optim.SGD, lr=1.0), clip_norm=1e-2)
    trainer = L.Trainer(
        max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False
    )
    trainer.fit(module, DataLoader([(images[rows], labels[rows])] * 3, batch_size=None))
    return {name: value - before[name] for name, value in snapshot(model).items()}


def estimates_apart(rows):
    """Gradients where every process draws other numbers for its samples; what is of the whole batch is the first's."""
    results = {}
    for guess, coefficient in (("mixing", "random_sign"), ("next_block", "random_sign"), ("dfa", "projection")):
        blocks, images, labels = network()
        torch.manual_seed(rows.start)
        estimator_of({"perturb.coefficient": coefficient}, guess=guess).estimate(blocks, images[rows], labels[rows])
        results[f"apart {guess}"] = gradients(blocks), None
    return results


def share_directions(guess: RandomGuess, rows):
    """Let the samples have the directions that they would have in the whole batch."""
    guess.sample = lambda like: torch.randn(sum(PARTS), *like.shape[1:], dtype=like.dtype)[rows]


def work(rank, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{folder}/group", rank=rank, world_size=len(PARTS))
    start = sum(PARTS[:rank])
    rows = slice(start, start + PARTS[rank])
    torch.save(estimates(rows) | estimates_apart(rows), folder / f"{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """The results of every process."""
    folder = tmp_path_factory.mktemp("processes")
    processes = [PROCESSES.Process(target=work, args=(rank, folder)) for rank in range(len(PARTS))]
    for process in processes:
        process.start()
    for process in processes:
        process.join(300)
        assert process.exitcode == 0
    return [torch.load(folder / f"{rank}.pt") for rank in range(len(PARTS))]


@pytest.fixture(scope="module")
def whole():
    return estimates(slice(None))


@pytest.mark.parametrize("name", [*CASES, *(f"{name} compiled" for name in COMPILED), *(name for name, *_ in CLIPPED)])
def test_estimates_are_those_of_one_process(name, parts, whole):
    expected, cosine = whole[name]
    for part, similarity in (results[name] for results in parts):
        # Next to eps in c = <t, g> / (|g|^2 + eps), the square of a single channel's guess may be small.
        assert_same_gradients(part, expected, 1e-7 if "channel" in name else 1e-9)
        assert (similarity is None) == (cosine is None)
        if cosine is not None:
            assert_close(similarity, cosine)


@pytest.mark.parametrize("guess", ["mixing", "next_block", "dfa"])
def test_processes_agree_although_they_draw_apart(guess, parts):
    (first, _), (second, _) = (results[f"apart {guess}"] for results in parts)
    assert_same_gradients(second, first, 0)


# A run on two devices


def start(folder, epochs="trainer.max_epochs=8"):
    """Start ``train.py`` on two processes; its output goes to ``folder / "log"``."""
    settings = ["model.width=0.03125", epochs, "logger.mode=disabled", f"hydra.run.dir={folder / 'run'}"]
    devices = ["trainer.devices=2", "trainer.accelerator=cpu", "trainer.enable_progress_bar=false"]
    choices = ["guess=gaussian", "perturb=activity"]
    with (folder / "log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, str(ROOT / "train.py"), *choices, *settings, *devices],
            cwd=folder,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


def weights(folder):
    return torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]


def child_of(process):
    """The process that another one has started, once it is there."""
    for _ in range(600):
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        for child in map(int, children):
            if b"train.py" in Path(f"/proc/{child}/cmdline").read_bytes():
                return child
        time.sleep(0.1)
    raise AssertionError("no second process")


def wait_for_an_epoch(process, folder):
    metrics = folder / "run" / "metrics" / "version_0" / "metrics.csv"
    while not metrics.exists() or "test/loss" not in metrics.read_text():
        assert process.poll() is None, (folder / "log").read_text()
        time.sleep(0.05)


def wait_for_the_end(other, process):
    for _ in range(600):
        if not Path(f"/proc/{other}").exists() or "Z (zombie)" in Path(f"/proc/{other}/status").read_text():
            break
        time.sleep(0.1)
    else:
        os.killpg(process.pid, signal.SIGKILL)
        raise AssertionError("the second process went on")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks into /proc")
def test_sigterm_ends_both_processes(tmp_path):
    process = start(tmp_path, "trainer.max_epochs=1000")
    other = child_of(process)
    wait_for_an_epoch(process, tmp_path)
    os.killpg(process.pid, signal.SIGTERM)  # the second one waits for the first one to end it
    assert process.wait(60) == 143
    wait_for_the_end(other, process)
    log = (tmp_path / "log").read_text()
    assert "Traceback" not in log
    assert log.count("Terminated") == 1
    assert log.endswith("; last checkpoint: run/checkpoints/last.ckpt\n")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks into /proc")
@pytest.mark.parametrize("victim", ["first", "second"])
def test_a_process_that_dies_stops_the_other_and_the_run_goes_on_later(victim, tmp_path, whole_run):
    process = start(tmp_path)
    other = child_of(process)
    wait_for_an_epoch(process, tmp_path)
    os.kill(process.pid if victim == "first" else other, signal.SIGKILL)
    assert process.wait(60) != 0
    wait_for_the_end(other, process)
    assert read_result(tmp_path / "run") is None
    assert start(tmp_path).wait(120) == 0, (tmp_path / "log").read_text()
    expected, actual = weights(whole_run), weights(tmp_path / "run")
    assert all(torch.equal(actual[name], value) for name, value in expected.items())


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    assert start(folder).wait(120) == 0, (folder / "log").read_text()
    return folder / "run"


def test_a_run_on_two_devices_ends_with_a_result(whole_run):
    result = read_result(whole_run)
    assert 0 < result["test_accuracy"] < 1
    assert result["epoch"] == 7
