"""Error of finite differences over their step, drawn as docs/figures/finite_step.png.

A derivative along a gaussian direction of all weights (`guess=gaussian perturb.granularity=network`), by
`engine=finite` against `engine=forward` in float64: root mean squares over directions, of the error divided by that of
the derivatives themselves. The network is ResNet-18 in 16 blocks, as it is and with SiLU for ReLU. Where all is smooth
the error falls with the square of the step until rounding takes over, as 1 / step. Kinks within the step add to it.

python benchmarks/finite.py                          # prints the table
python benchmarks/finite.py --write                  # and draws the figure
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from cases import build_network, random_batch
from tables import machine, show
from torch import Tensor, nn

from fglight.estimators import (
    Engine,
    FiniteDifferences,
    ForwardMode,
    GaussianGuess,
    GlobalTarget,
    GradientEstimator,
    WeightPerturbation,
)
from fglight.models import BlockNetwork

FIGURE = Path(__file__).parents[1] / "docs" / "figures" / "finite_step.png"
DTYPES = (torch.float32, torch.float64)
STYLES = {  # Okabe and Ito's colours, told apart by markers too
    ("ReLU", torch.float32): ("#0072B2", "o"),
    ("ReLU", torch.float64): ("#E69F00", "s"),
    ("SiLU", torch.float32): ("#009E73", "^"),
    ("SiLU", torch.float64): ("#CC79A7", "D"),
}


class SameInAllDtypes(GaussianGuess):
    """Directions that do not depend on the dtype but for rounding."""

    def sample(self, like: Tensor) -> Tensor:
        """See ``RandomGuess``."""
        return torch.randn(like.shape, dtype=torch.float64).to(like)


def network(activation: str, width: float) -> BlockNetwork:
    """ResNet-18 in 16 blocks, in float32.

    Args:
        activation: ``ReLU``, or ``SiLU`` in its place.
        width: of the network.
    """
    model = build_network(16, width, torch.device("cpu"))
    if activation == "SiLU":
        for module in list(model.modules()):
            for name, child in module.named_children():
                if isinstance(child, nn.ReLU):
                    setattr(module, name, nn.SiLU())
    return model


def slopes(model: BlockNetwork, batch: tuple[Tensor, Tensor], engine: Engine, directions: int) -> Tensor:
    """Derivatives of the loss along directions, ``(directions,)``, the same ones for every engine and dtype."""
    found: list[Tensor] = []
    guess = SameInAllDtypes()
    guess.coefficient = lambda product, square: found.append(product.sum().double()) or product
    estimator = GradientEstimator(GlobalTarget(), guess, WeightPerturbation("network"), engine=engine)
    for seed in range(directions):
        torch.manual_seed(seed)
        estimator.estimate(model, *batch)
    return torch.stack(found)


def measure(steps: Sequence[float], batch: int, width: float, directions: int) -> dict[tuple, list[float]]:
    """Relative errors over the step, for each activation function and dtype.

    Args:
        steps: relative to the weights.
        batch: images a step.
        width: of the network.
        directions: over how many the error is taken.
    """
    errors = {}
    images, labels = random_batch(batch, torch.device("cpu"))
    for activation, dtype in STYLES:
        model = network(activation, width)
        exact = slopes(model.double(), (images.double(), labels), ForwardMode(), directions)
        model.to(dtype)
        found = [slopes(model, (images.to(dtype), labels), FiniteDifferences(step), directions) for step in steps]
        errors[activation, dtype] = [float((slope - exact).norm() / exact.norm()) for slope in found]
    return errors


def draw(steps: Sequence[float], errors: dict[tuple, list[float]], title: str, path: Path) -> None:
    """Draw errors over steps, with each dtype's default step marked."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(6.4, 4.4), layout="constrained")
    for (activation, dtype), series in errors.items():
        colour, marker = STYLES[activation, dtype]
        axes.loglog(steps, series, color=colour, marker=marker, ms=4, label=f"{activation}, {str(dtype)[6:]}")
    for dtype in DTYPES:
        axes.axvline(torch.finfo(dtype).eps ** 0.5, color="0.5", linestyle=":")
    axes.plot([], [], color="0.5", linestyle=":", label="default step of float64 and float32")
    axes.set_xlabel("step, relative to the weights")
    axes.set_ylabel("error of a derivative, relative")
    axes.set_title(title, fontsize=9)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=160)
    plt.close(figure)


def main() -> None:
    """Parse the command line, measure, print, and draw where asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--width", type=float, default=0.125)
    parser.add_argument("--directions", type=int, default=8)
    parser.add_argument("--write", action="store_true", help=f"draw {FIGURE.name}")
    arguments = parser.parse_args()
    steps = [10 ** (exponent / 2) for exponent in range(-18, 1)]
    errors = measure(steps, arguments.batch, arguments.width, arguments.directions)
    title = f"ResNet-18, 16 blocks, width {arguments.width:g}, batch {arguments.batch} of 3x32x32"
    rows = [[f"{step:.1e}", *(f"{series[i]:.1e}" for series in errors.values())] for i, step in enumerate(steps)]
    header = ["step", *(f"{activation}, {str(dtype)[6:]}" for activation, dtype in errors)]
    show(f"{title}, {machine(torch.device('cpu'))}", header, rows)
    if arguments.write:
        draw(steps, errors, title, FIGURE)


if __name__ == "__main__":
    main()
