"""Everything worth measuring on one GPU, in one command of under nine minutes.

python benchmarks/gpu.py                             # writes benchmarks/GPU.md and benchmarks/GPU.json
python benchmarks/gpu.py --device cpu --small        # tests the script, into outputs/gpu_test

Each section runs in a process of its own, which is ended when its time is up, and every result is written as soon as it
is there: what is cut off, fails or runs out of memory costs nothing but itself.
"""

import argparse
import json
import os
import subprocess
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import flops
import lightning
import memory
import torch
from cases import CASES, Case, Step, backpropagation, build_network, estimation, random_batch
from tables import as_markdown, machine, ratio
from timing import compare, seconds, synchronize
from torch import Tensor

from fglight import build_estimator, load_config
from fglight.data.batches import Batches
from fglight.training.module import ForwardGradientModule

ROOT = Path(__file__).parents[1]
TOTAL = 525
"""Seconds that all sections may take together, unless ``--seconds`` says otherwise."""
CELL = 391 * 100
"""Steps of one of the paper's CIFAR-10 cells: 100 epochs of 50,000 images at batch 128."""
SGD = {"lr": 0.01, "momentum": 0.9, "weight_decay": 5e-4}


@dataclass(frozen=True)
class Setting:
    """Where and at what size a section measures.

    Attributes:
        device: where.
        small: whether this is only a test of the script.
        out: the folder of the results.
        section: the section that runs, under which its results are filed.
    """

    device: torch.device
    small: bool
    out: Path
    section: str

    @property
    def width(self) -> float:
        """Of the network."""
        return 1 / 32 if self.small else 1.0

    @property
    def batch(self) -> int:
        """Images a step."""
        return 8 if self.small else 128

    @property
    def repeats(self) -> int:
        """Times that a step is timed."""
        return 1 if self.small else 20

    @property
    def bf16(self) -> AbstractContextManager:
        """bfloat16 autocast, as ``trainer.precision=bf16-mixed`` has it."""
        return torch.autocast(self.device.type, torch.bfloat16)

    def add(self, header: list[str], row: list[str]) -> None:
        """Print a row of results, and write it where it survives whatever comes next."""
        print(self.section, "|", ", ".join(f"{key}: {value}" for key, value in zip(header, row) if value), flush=True)
        results = _read(self.out)
        table = results["sections"].setdefault(self.section, {"header": header, "rows": []})
        table["rows"].append(row)
        _write(self.out, results)


def float32(setting: Setting) -> None:
    """Step time and peak memory of every estimator in float32 (as torch has it by default: convolutions in TF32)."""
    _estimators(setting, nullcontext(), torch.contiguous_format)


def bf16(setting: Setting) -> None:
    """The same under bf16 autocast, with channels last."""
    _estimators(setting, setting.bf16, torch.channels_last)


def throughput(setting: Setting) -> None:
    """ResNet-18, backpropagation and fused SGD in bf16 with channels last, beside the device's own matrix rate."""
    size = 256 if setting.small else 8192
    left, right = torch.randn(2, size, size, dtype=torch.bfloat16, device=setting.device)
    fastest = min(seconds(lambda: left @ right, setting.device) for _ in range(setting.repeats + 3))
    rate = 2 * size**3 / fastest
    header = ["batch", "images/s", "TFLOP/s", f"share of {rate / 1e12:.3g} TFLOP/s ({size}x{size} bf16 product)"]
    for batch in (8, 16) if setting.small else (128, 512):
        model, images, labels = _problem(8, setting, torch.channels_last, batch)
        gradients = backpropagation(model, images, labels)
        used = [p for block in model.blocks for p in block.body.parameters()] + [*model.blocks[-1].aux.parameters()]
        optimizer = torch.optim.SGD(used, **SGD, fused=True)

        def step(gradients: Step = gradients, optimizer: torch.optim.Optimizer = optimizer) -> None:
            gradients()
            optimizer.step()

        with setting.bf16:
            each = _steady(step, setting)
            work = flops.count(gradients, model).total
        setting.add(
            header, [str(batch), f"{batch / each:.0f}", f"{work / each / 1e12:.2f}", f"{work / each / rate:.1%}"]
        )


def loop(setting: Setting) -> None:
    """Lightning's training loop (goal: at most 10 % over a bare one), and the share of the data in a step (5 %)."""
    warnings.filterwarnings("ignore")
    header = ["estimator", "bare loop, ms", "Lightning, ms", "overhead", "goal", "batch of data, ms", "share", "goal "]
    count = 5 if setting.small else 100
    images = torch.randint(256, (count * setting.batch, 3, 32, 32), dtype=torch.uint8, device=setting.device)
    labels = torch.randint(10, (len(images),), device=setting.device)
    half = [0.5, 0.5, 0.5]
    data = Batches(images, labels, batch_size=setting.batch, mean=half, std=half, shuffle=True, augment=True)
    for name, overrides in {"backpropagation": ["guess=exact"], "local guess, weight": ["guess=local"]}.items():
        model, *_ = _problem(8, setting, torch.contiguous_format)
        estimator = build_estimator(load_config(overrides))
        optimizer = torch.optim.SGD(estimator.trained_parameters(model), **SGD)

        def bare(estimator=estimator, model=model, optimizer=optimizer) -> None:  # noqa: ANN001
            for batch in data:
                with setting.bf16:
                    estimator.estimate(model, *batch)
                optimizer.step()

        bare()
        plain = seconds(bare, setting.device) / count
        timer = _EpochTimer(setting.device)
        trainer = lightning.Trainer(
            max_epochs=2,
            accelerator="gpu" if setting.device.type == "cuda" else "cpu",
            devices=1,
            precision="bf16-mixed",
            logger=False,
            callbacks=[timer],
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        module = ForwardGradientModule(
            model, estimator, optimizer=partial(torch.optim.SGD, **SGD, fused=True), cosine=False
        )
        trainer.fit(module, data)
        wrapped = timer.epochs[-1] / count
        each = seconds(lambda: sum(len(labels) for _, labels in data), setting.device) / count
        row = [name, *(f"{1000 * value:.2f}" for value in (plain, wrapped)), f"{wrapped / plain - 1:.1%}", "10 %"]
        setting.add(header, [*row, f"{1000 * each:.2f}", f"{each / wrapped:.1%}", "5 %"])


def compiled(setting: Setting) -> None:
    """What ``compile=true`` gains, in bf16 with channels last; backpropagation as ``torch.compile`` does it."""
    header = ["step", "eager, ms", "compiled, ms", "gain", "compiling, s"]
    chosen = ["local guess, activity", "local guess, weight", "gaussian guess, weight"]
    for case in [None, *(case for case in CASES if case.name in chosen)]:
        problem = _problem(8, setting, torch.channels_last)
        step = backpropagation(*problem) if case is None else estimation(case, *problem)
        name = "backpropagation" if case is None else case.name
        try:
            with setting.bf16:
                eager = _steady(step, setting)
                if case is None:
                    problem[0].compile()
                else:
                    step = estimation(replace(case, overrides=(*case.overrides, "compile=true")), *problem)
                start = time.perf_counter()
                for _ in range(3):  # an estimator compiles what comes twice in a row
                    step()
                synchronize(setting.device)
                compiling = time.perf_counter() - start
                fast = _steady(step, setting)
            row = [f"{1000 * eager:.2f}", f"{1000 * fast:.2f}", f"{eager / fast:.2f}", f"{compiling:.0f}"]
        except Exception as error:
            row = [_failure(error), "", "", ""]
        setting.add(header, [name, *row])


def cuda_graphs(setting: Setting) -> None:
    """Every estimator with ``compile=cudagraphs``, beside backpropagation likewise, in bf16 with channels last."""
    header = ["blocks", "step", "eager, ms", "CUDA graph, ms", "time ratio", "goal"]
    graphs = ("compile=cudagraphs",)
    for blocks in (8, 16):
        problem = _problem(blocks, setting, torch.channels_last)
        with setting.bf16:
            plain = Case("backpropagation", ("guess=exact", "target=global"))
            baseline = estimation(replace(plain, overrides=(*plain.overrides, *graphs)), *problem)
            for case in (plain, *CASES):
                try:
                    eager = _steady(estimation(case, *problem), setting)
                    step = estimation(replace(case, overrides=(*case.overrides, *graphs)), *problem)
                    _steady(step, setting)
                    each, own = (_steady(one, setting) for one in (step, baseline))
                    row = [f"{1000 * eager:.2f}", f"{1000 * each:.2f}", *ratio(each / own, case.gpu_time)]
                except Exception as error:
                    row = [_failure(error), *[""] * 3]
                setting.add(header, [str(blocks), case.name, *row])


def side_by_side(setting: Setting) -> None:
    """How many runs at once give most cells an hour: ``local guess, weight`` in bf16, each in its own process."""
    header = ["width", "runs", "steps/s of each", "steps/s of all", "cells an hour (of 39,100 steps)"]
    for width in (setting.width,) if setting.small else (1.0, 0.25):
        for count in (1, 2) if setting.small else (1, 2, 4, 8):
            command = [sys.executable, __file__, "--run", str(width), *_arguments(setting)]
            runs = [
                subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
                for _ in range(count)
            ]
            try:
                for run in runs:
                    run.stdout.readline()  # warmed up
                for run in runs:
                    run.stdin.write("go\n")
                    run.stdin.flush()
                rates = [float(run.stdout.readline()) for run in runs]
                row = [f"{sum(rates) / count:.1f}", f"{sum(rates):.1f}", f"{3600 * sum(rates) / CELL:.2f}"]
            except (ValueError, OSError):
                row = ["failed", "", ""]
            finally:
                for run in runs:
                    run.kill()
            setting.add(header, [f"{width:g}", str(count), *row])


SECTIONS: dict[Callable[[Setting], None], int] = {
    throughput: 45,
    cuda_graphs: 90,
    bf16: 100,
    float32: 100,
    loop: 60,
    side_by_side: 150,
    compiled: 120,
}
"""Each with the seconds it may take; all of them together may take ``TOTAL``."""


def _estimators(setting: Setting, precision: AbstractContextManager, layout: torch.memory_format) -> None:
    header = ["blocks", "step", "ms", "time ratio", "goal", "peak MB", "memory ratio", "goal "]
    for blocks in (8, 16):
        problem = _problem(blocks, setting, layout)
        baseline = backpropagation(*problem)
        with precision:
            own = memory.peak(baseline, problem[0], setting.device)
            each = _steady(baseline, setting)
            row = [str(blocks), "backpropagation", f"{1000 * each:.2f}", *ratio(1)]
            setting.add(header, [*row, f"{own / memory.MB:.0f}", *ratio(1)])
            for case in CASES[:: 4 if setting.small else 1]:
                step = estimation(case, *problem)
                try:
                    _, times = compare(baseline, {"": step}, setting.repeats, setting.device)
                    peak = memory.peak(step, problem[0], setting.device)
                    row = [f"{1000 * times[''].seconds:.2f}", *ratio(times[""].ratio, case.gpu_time)]
                    row += [f"{peak / memory.MB:.0f}", *ratio(peak / own, case.memory)]
                except Exception as error:
                    row = [_failure(error), *[""] * 5]
                setting.add(header, [str(blocks), case.name, *row])


def _problem(
    blocks: int, setting: Setting, layout: torch.memory_format, batch: int | None = None
) -> tuple[torch.nn.Module, Tensor, Tensor]:
    """A network and a batch, in a memory layout."""
    model = build_network(blocks, setting.width, setting.device).to(memory_format=layout)
    images, labels = random_batch(batch or setting.batch, setting.device)
    return model, images.to(memory_format=layout), labels


def _steady(step: Step, setting: Setting) -> float:
    """Seconds a step takes when many follow one another and the host runs ahead."""

    def steps() -> None:
        for _ in range(setting.repeats):
            step()

    for _ in range(min(3, setting.repeats)):
        step()
    return seconds(steps, setting.device) / setting.repeats


def _run(width: float, setting: Setting) -> None:
    """One of several runs at once: warm up, wait for the word, and print how many steps a second there were."""
    model = build_network(8, width, setting.device)
    images, labels = random_batch(setting.batch, setting.device)
    estimator = build_estimator(load_config(["guess=local"]))
    optimizer = torch.optim.SGD(estimator.trained_parameters(model), **SGD)

    def step() -> None:
        with setting.bf16:
            estimator.estimate(model, images, labels)
        optimizer.step()

    for _ in range(setting.repeats):
        step()
    synchronize(setting.device)
    print("ready", flush=True)
    sys.stdin.readline()
    start, count = time.perf_counter(), 0
    while time.perf_counter() - start < (1 if setting.small else 5):
        step()
        synchronize(setting.device)
        count += 1
    print(count / (time.perf_counter() - start), flush=True)


class _EpochTimer(lightning.Callback):
    """Seconds of each training epoch."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.epochs: list[float] = []

    def on_train_epoch_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        synchronize(self.device)
        self.start = time.perf_counter()

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        synchronize(self.device)
        self.epochs.append(time.perf_counter() - self.start)


def _failure(error: Exception) -> str:
    traceback.print_exc()
    return f"failed: {type(error).__name__}: {str(error).splitlines()[0][:100] if str(error) else ''}".replace("|", "/")


def _read(out: Path) -> dict:
    return json.loads((out / "GPU.json").read_text())


def _write(out: Path, results: dict) -> None:
    """Write both files; the Markdown follows from the JSON."""
    text = [
        "# On a GPU",
        f"`{results['command']}`: {results['machine']}. ResNet-18 for 3x32x32 images, CNN auxiliaries.",
    ]
    if results["test"]:
        text.append("**A test of the script at small size: these numbers mean nothing.**")
    for section in SECTIONS:
        table = results["sections"].get(section.__name__)
        text += [f"## {section.__name__.replace('_', ' ')}", section.__doc__]
        text.append(as_markdown(table["header"], table["rows"]) if table else "Nothing measured.")
        text += [results["ended"][section.__name__]] if section.__name__ in results["ended"] else []
    for name, content in {"GPU.json": json.dumps(results, indent=1), "GPU.md": "\n\n".join(text)}.items():
        (out / f"{name}.new").write_text(content + "\n")
        os.replace(out / f"{name}.new", out / name)


def _arguments(setting: Setting) -> list[str]:
    return ["--device", str(setting.device), "--out", str(setting.out), *["--small"] * setting.small]


def _run_all(setting: Setting, chosen: list[str], total: float) -> None:
    """Run every section in a process of its own, for as long as it may take."""
    setting.out.mkdir(parents=True, exist_ok=True)
    results = {"command": f"python {' '.join(sys.argv)}", "machine": machine(setting.device)}
    test = setting.small or setting.device.type != "cuda"
    _write(setting.out, results | {"test": test, "sections": {}, "ended": {}})
    deadline = time.monotonic() + total
    for section, allowed in SECTIONS.items():
        name = section.__name__
        if name not in chosen:
            continue
        allowed = min(allowed, deadline - time.monotonic())
        command = [sys.executable, __file__, "--section", name, *_arguments(setting)]
        # A session of its own, so that what the section started ends with it.
        process = subprocess.Popen(command, start_new_session=True)
        try:
            process.wait(timeout=max(allowed, 1))
            ended = f"Ended with exit status {process.returncode}." if process.returncode else None
        except subprocess.TimeoutExpired:
            ended = f"Cut off after {allowed:.0f} s."
        finally:
            _end(process)
        if ended:
            print(name, "|", ended, flush=True)
            results = _read(setting.out)
            results["ended"][name] = ended
            _write(setting.out, results)


def _end(process: subprocess.Popen) -> None:
    """End a process and all that it started."""
    try:
        os.killpg(process.pid, 9)
    except ProcessLookupError:
        return
    process.wait()


def main() -> None:
    """Parse the command line and run what is asked for."""
    names = [section.__name__ for section in SECTIONS]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--small", action="store_true", help="a test of the script")
    parser.add_argument("--only", nargs="+", choices=names, default=names, help="sections to run")
    parser.add_argument("--seconds", type=float, default=TOTAL, help="that all sections may take together")
    parser.add_argument("--out", type=Path, help="folder of the results")
    parser.add_argument("--section", choices=names, help=argparse.SUPPRESS)
    parser.add_argument("--run", type=float, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        parser.error("torch finds no GPU here; --device cpu --small tests the script")
    real = device.type == "cuda" and not arguments.small
    out = arguments.out or (ROOT / "benchmarks" if real else ROOT / "outputs" / "gpu_test")
    setting = Setting(device, arguments.small, out, arguments.section or "")
    if arguments.run is not None:
        _run(arguments.run, setting)
    elif arguments.section:
        next(section for section in SECTIONS if section.__name__ == arguments.section)(setting)
    else:
        _run_all(setting, arguments.only, arguments.seconds)


if __name__ == "__main__":
    main()
