"""From one directional derivative a step to the exact gradient: what each more of them buys.

python benchmarks/continuum.py              # trains what is missing, into multirun/continuum, and draws
python benchmarks/continuum.py --seeds 0    # one seed

Trains digits (8 blocks, width 0.5, 12 epochs, global target) with weight perturbation of every granularity and several
directions, and activity perturbation by sample and by channel. Beside test accuracy stands the cosine similarity of the
whole estimate and the exact gradient of blocks 0 to 6, early in training. Writes benchmarks/CONTINUUM.md and
docs/figures/continuum.png.
"""

import argparse
import statistics
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import torch
from rich.console import Console
from torch import Tensor, nn

from fglight import build_estimator, build_model, load_config
from fglight.data.sources import Digits
from fglight.training.run import train

ROOT = Path(__file__).parents[1]
COMMON = ["target=global", "model.width=0.5", "trainer.max_epochs=12", "logger.mode=disabled"]
WARM_UP_STEPS = 24
"""Steps of local-guess training, two epochs, before cosines are measured."""
DRAWS = 10
"""Estimates that a cosine is the mean of."""


@dataclass(frozen=True)
class Point:
    """One way to estimate the gradient."""

    guess: str
    perturb: str
    granularity: str
    directions: int = 1
    combine: str = "mean"

    @property
    def overrides(self) -> list[str]:
        """Hydra overrides."""
        choices = [f"guess={self.guess}", f"perturb={self.perturb}", f"perturb.granularity={self.granularity}"]
        several = [f"guess.directions={self.directions}", f"guess.combine={self.combine}"]
        return choices + (several if self.directions > 1 else [])

    def __str__(self) -> str:
        """A name for folders."""
        several = f"-{self.directions}-{self.combine}" if self.directions > 1 else ""
        return f"{self.guess}-{self.perturb}-{self.granularity}{several}"

    def derivatives(self, model: nn.Module) -> int:
        """Directional derivatives of the network's loss that a step takes in forward mode, all samples at once."""
        bodies = [block.body for block in model.blocks[:-1]]
        tensors = [p for body in bodies for p in body.parameters()]
        count = {
            "network": 1,
            "block": len(bodies),
            "sample": len(bodies),
            "tensor": len(tensors),
            "filter": sum(len(p) for p in tensors),
            "channel": sum(list(body.parameters())[-1].numel() for body in bodies),  # of the last batch norm's shift
        }
        return count[self.granularity] * self.directions


POINTS = [
    *(Point(g, "weight", granularity) for g in ("local", "gaussian") for granularity in ("network", "block", "tensor")),
    *(Point(g, "weight", "filter") for g in ("local", "gaussian")),
    *(Point("gaussian", "weight", "tensor", k, combine) for k in (4, 16) for combine in ("mean", "span")),
    *(Point(g, "activity", granularity) for g in ("local", "gaussian") for granularity in ("sample", "channel")),
]


def flat(model: nn.Module) -> Tensor:
    """The gradients of all bodies but the last, in one vector."""
    return torch.cat([p.grad.flatten() for block in model.blocks[:-1] for p in block.body.parameters()])


def cosines(batch_size: int = 128) -> dict[Point, float]:
    """Mean cosine similarity of each estimate and the exact gradient, on digits, after a short training."""
    torch.manual_seed(0)
    model = build_model(load_config(COMMON))
    data, _ = Digits().load(None)
    images = (data.images.float() / 255 - 0.3054) / 0.3760  # as in conf/data/digits.yaml
    warm_up = build_estimator(load_config(COMMON))
    optimizer = torch.optim.SGD(warm_up.trained_parameters(model), lr=0.05, momentum=0.9, weight_decay=5e-4)
    for _ in range(WARM_UP_STEPS):
        rows = torch.randint(len(images), (batch_size,))
        warm_up.estimate(model, images[rows], data.labels[rows])
        optimizer.step()
    rows = torch.randint(len(images), (batch_size,))
    batch = images[rows], data.labels[rows]
    build_estimator(load_config([*COMMON, "guess=exact"])).estimate(model, *batch)
    exact = flat(model)
    result = {}
    for point in POINTS:
        estimator = build_estimator(load_config([*COMMON, *point.overrides]))
        seen = []
        for _ in range(1 if point.guess == "local" else DRAWS):
            estimator.estimate(model, *batch)
            seen.append(float(torch.cosine_similarity(flat(model), exact, dim=0)))
        result[point] = statistics.mean(seen)
    return result


def accuracies(seeds: list[int], runs: Path) -> dict[Point | None, list[float]]:
    """Test accuracies of every point and of backpropagation (None), in percent; finished runs are not done again."""
    result: dict[Point | None, list[float]] = {}
    for point in [None, *POINTS]:
        chosen = point.overrides if point else ["guess=exact"]
        for seed in seeds:
            cfg = load_config([*COMMON, *chosen, f"seed={seed}", "trainer.enable_progress_bar=false"])
            run = train(cfg, runs / f"{point or 'exact'}_seed{seed}")
            result.setdefault(point, []).append(100 * run["test_accuracy"])
    return result


def draw(
    counts: dict[Point, int], accuracy: dict[Point | None, list[float]], cosine: dict[Point, float], path: Path
) -> None:
    """Accuracy and cosine over the number of directional derivatives."""
    lines = {
        "local guess, weight": ("#0072B2", "s", [p for p in POINTS if (p.guess, p.perturb) == ("local", "weight")]),
        "local guess, activity": ("#56B4E9", "D", [p for p in POINTS if (p.guess, p.perturb) == ("local", "activity")]),
        "gaussian guess, weight": (
            "#D55E00",
            "v",
            [p for p in POINTS if (p.guess, p.perturb, p.directions) == ("gaussian", "weight", 1)],
        ),
        "gaussian guess, activity": (
            "#CC79A7",
            "P",
            [p for p in POINTS if (p.guess, p.perturb) == ("gaussian", "activity")],
        ),
        **{
            f"gaussian guess, 1, 4, 16 directions a tensor, {combine}": (
                colour,
                marker,
                [POINTS[5], *(p for p in POINTS if p.directions > 1 and p.combine == combine)],
            )
            for combine, colour, marker in (("mean", "#E69F00", "o"), ("span", "#009E73", "^"))
        },
    }
    with mpl.rc_context({"font.size": 9, "axes.grid": True, "grid.alpha": 0.3, "axes.spines.top": False}):
        canvas, (above, below) = plt.subplots(2, 1, figsize=(6.4, 7.6), sharex=True, layout="constrained")
        for label, (colour, marker, points) in lines.items():
            x = [counts[p] for p in points]
            above.plot(x, [statistics.mean(accuracy[p]) for p in points], marker + "-", color=colour, label=label)
            below.plot(x, [cosine[p] for p in points], marker + "-", color=colour)
        for point in POINTS:
            if point.guess == "local":
                at = (counts[point], statistics.mean(accuracy[point]))
                above.annotate(
                    point.granularity, at, xytext=(0, 6), textcoords="offset points", ha="center", fontsize=8
                )
        above.axhline(statistics.mean(accuracy[None]), color="black", linestyle=":", label="backpropagation")
        above.set_ylabel("test accuracy (%)")
        below.set_ylabel("cosine similarity with the exact gradient")
        below.set_xscale("log")
        below.set_xlabel("directional derivatives a step")
        canvas.legend(fontsize=8, loc="outside lower center", ncols=2)
        path.parent.mkdir(exist_ok=True)
        canvas.savefig(path, dpi=150)


def main() -> None:
    """Parse the command line, train what is missing, and write table and figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--runs", type=Path, default=ROOT / "multirun" / "continuum")
    arguments = parser.parse_args()
    accuracy = accuracies(arguments.seeds, arguments.runs)
    cosine = cosines()
    model = build_model(load_config(COMMON))
    counts = {point: point.derivatives(model) for point in POINTS}
    rows = [
        "| guess | perturbation | a coefficient for each | directions | derivatives | test accuracy (%) | cosine |",
        "|---|---|---|---|---|---|---|",
        f"| exact | | | | | {_accuracy(accuracy[None])} | 1 |",
    ]
    for p in POINTS:
        several = f"{p.directions}, {p.combine}" if p.directions > 1 else "1"
        rows.append(
            f"| {p.guess} | {p.perturb} | {p.granularity} | {several} | {counts[p]:,} | {_accuracy(accuracy[p])} "
            f"| {cosine[p]:.3f} |"
        )
    text = "\n".join(
        [
            "# Directional derivatives a step, and what they buy",
            "",
            "`python benchmarks/continuum.py`: ResNet-18 in 8 blocks, width 0.5, digits, 12 epochs, global target, "
            f"seeds {', '.join(map(str, arguments.seeds))}, torch {torch.__version__}. Cosines: of the estimate and "
            f"the exact gradient of blocks 0 to 6, after {WARM_UP_STEPS} steps of training with the local guess; for "
            f"random guesses the mean of {DRAWS} draws.",
            "",
            *rows,
            "",
        ]
    )
    (ROOT / "benchmarks" / "CONTINUUM.md").write_text(text, encoding="utf-8")
    draw(counts, accuracy, cosine, ROOT / "docs" / "figures" / "continuum.png")
    Console().print(text)


def _accuracy(values: list[float]) -> str:
    return f"{statistics.mean(values):.1f} ({', '.join(f'{value:.1f}' for value in values)})"


if __name__ == "__main__":
    main()
