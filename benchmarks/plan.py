"""How well a plan knows the time of a run: estimated from what its steps compute, and measured by whole steps.

python benchmarks/plan.py                            # prints the table
python benchmarks/plan.py --write                    # and writes it into benchmarks/PLAN.md
"""

import argparse
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from cases import Step
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf
from tables import as_markdown, machine, show
from timing import synchronize

from fglight.build import build_estimator, build_model
from fglight.cell import Cell
from fglight.config import compose
from fglight.sweeps import costs
from fglight.sweeps.composing import Composer
from fglight.sweeps.costs import Kind, Steps, Times, device_of
from fglight.sweeps.jobs import by_name, plan_jobs
from fglight.sweeps.plan import run_seconds
from fglight.sweeps.request import parse

PLAN = Path(__file__).parent / "PLAN.md"
HEADER = ["cell", "images", "step: estimated", "measured", "test step: estimated", "measured", "run: ratio"]
GOAL = 1.3
EXPLANATION = """\
Times of a step are in milliseconds. *estimated* is what `plan=true` says, from a timed step of backpropagation on each
network and what estimators compute beside it (`fglight/sweeps/costs.py`); *measured* are whole steps with as many
images as the column says, the configuration's own 128 where they take less than the limit. The ratio is of the whole
run's time, estimated to measured. A wider network than the paper's is estimated from that of width 1: with few
images its weights take longer than that."""


def configurations(overrides: Sequence[str]) -> dict[Kind, DictConfig]:
    """A configuration of each kind of cell that a sweep has."""
    jobs = plan_jobs(parse(OverridesParser.create().parse_overrides(list(overrides))))
    composer = Composer(compose)
    configs = [composer(group[0].overrides) for group in by_name(jobs).values()]
    return {Kind.of(cfg): cfg for cfg in reversed(configs)}


def sample(configs: dict[Kind, DictConfig], count: int) -> list[Kind]:
    """Kinds that between them have every network, auxiliary network, guess, target and perturbation.

    Each is the one with most that no other has had yet, or has had least often.
    """
    words = {}
    for kind, cfg in configs.items():
        cell = Cell.from_config(cfg)
        model = f"{cell.network} {cell.blocks} {cell.aux}"
        words[kind] = [kind.network, cell.aux, cell.guess, cell.target, cell.perturb, model]
    chosen: list[Kind] = []
    seen: dict[str, int] = {}
    while len(chosen) < min(count, len(configs)):
        rest = [kind for kind in configs if kind not in chosen]
        best = max(rest, key=lambda kind: sum(4.0 ** -seen.get(word, 0) for word in words[kind]))
        chosen.append(best)
        for word in words[best]:
            seen[word] = seen.get(word, 0) + 1
    return chosen


def whole_steps(cfg: DictConfig, repeats: int) -> Times:
    """Train and test on one batch of random images, as a run does; the fastest of several counts, after one."""
    torch.manual_seed(0)
    device = device_of(cfg)
    model, estimator = build_model(cfg).to(device), build_estimator(cfg)
    options = {key: value for key, value in cfg.optim.items() if key in ("lr", "momentum", "weight_decay")}
    optimizer = torch.optim.SGD(estimator.trained_parameters(model), **{**options, "lr": 1e-6})
    data = cfg.data
    images = torch.randn(data.batch_size, data.in_channels, data.image_size, data.image_size, device=device)
    labels = torch.randint(data.num_classes, (data.batch_size,), device=device)

    def train() -> None:
        estimator.estimate(model, images, labels)
        optimizer.step()

    @torch.no_grad()
    def test() -> None:
        hidden = images
        for block in model.blocks:
            hidden = block.body(hidden)
            if estimator.evaluates_auxiliaries or block is model.blocks[-1]:
                block.loss(hidden, labels)

    training = _best(train, repeats, device)
    model.eval()
    return Times(training, _best(test, repeats, device))


def _best(step: Step, repeats: int, device: torch.device) -> float:
    taken = []
    for _ in range(repeats + 1):
        synchronize(device)
        start = costs.clock()
        step()
        synchronize(device)
        taken.append(costs.clock() - start)
    return min(taken[1:])


def main() -> None:
    """Parse the command line, measure, print, and write where asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=24, help="how many kinds of cell are measured")
    parser.add_argument("--repeats", type=int, default=2, help="whole steps of each, after one to warm up")
    parser.add_argument("--long", type=float, default=12, help="seconds of a step from which on it has fewer images")
    parser.add_argument(
        "--cpu-time",
        action="store_true",
        help="count the processor's seconds on one thread, where others use it as well",
    )
    parser.add_argument("--write", action="store_true", help=f"write the table into {PLAN.name}")
    parser.add_argument("sweep", nargs="*", default=["table=all"], help="what is planned")
    arguments = parser.parse_args()

    if arguments.cpu_time:
        torch.set_num_threads(1)
        costs.clock = time.process_time
    load = os.getloadavg()[0]
    configs = configurations(arguments.sweep)
    chosen = {kind: configs[kind] for kind in sample(configs, arguments.count)}
    steps, start = Steps(), time.perf_counter()
    for kind in configs:
        steps.times(kind)
    took = time.perf_counter() - start
    rows, ratios = [], []
    for kind, cfg in chosen.items():
        while cfg.data.batch_size > kind.batch / 16 and steps.times(Kind.of(cfg)).training > arguments.long:
            cfg = OmegaConf.merge(cfg, {"data": {"batch_size": cfg.data.batch_size // 2}})
        estimated, measured = steps.times(Kind.of(cfg)), whole_steps(cfg, arguments.repeats)
        ratios.append(run_seconds(cfg, estimated) / run_seconds(cfg, measured))
        pairs = ((estimated.training, measured.training), (estimated.testing, measured.testing))
        in_ms = [f"{1000 * value:.0f}" for pair in pairs for value in pair]
        rows.append([str(Cell.from_config(cfg)), str(cfg.data.batch_size), *in_ms, f"{ratios[-1]:.2f}"])
        print(*rows[-1], flush=True)
    loads = f"{load:.1f} before and {os.getloadavg()[0]:.1f} after"
    unit = "seconds of the processor" if arguments.cpu_time else "seconds"
    where = (
        f"{len(chosen)} of {len(configs)} kinds of cell, {machine(device_of(cfg))}; {unit}, best of "
        f"{arguments.repeats} whole steps; the machine's load was {loads}, this included"
    )
    within = sum(1 / GOAL < ratio < GOAL for ratio in ratios)
    result = (
        f"{within} of {len(ratios)} estimates are within {GOAL - 1:.0%} of what was measured; ratios are "
        f"{min(ratios):.2f} to {max(ratios):.2f}. To estimate all {len(configs)} kinds took {took:.0f} s."
    )
    show(where, HEADER, rows)
    print(result)
    if arguments.write:
        command = f"`python {' '.join(sys.argv)}`: {where}. {EXPLANATION}"
        PLAN.write_text("\n\n".join(["# What a plan estimates", command, result, as_markdown(HEADER, rows)]) + "\n")


if __name__ == "__main__":
    main()
