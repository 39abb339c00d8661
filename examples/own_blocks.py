"""Train your own ``nn.Sequential`` with forward gradients, on scikit-learn's digits, in half a minute on two cores.

python examples/own_blocks.py
"""

import time

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from fglight.estimators import (
    ActivityPerturbation,
    ExactGuess,
    ForwardMode,
    GaussianGuess,
    GlobalTarget,
    GradientEstimator,
    LocalGuess,
    ReverseMode,
    WeightPerturbation,
)
from fglight.models import CNNAuxiliary, split

REVERSE, FORWARD = ReverseMode(), ForwardMode()
ROWS = [
    ("backpropagation", REVERSE, ExactGuess, WeightPerturbation),
    ("local guess, weight", REVERSE, LocalGuess, WeightPerturbation),
    ("local guess, weight", FORWARD, LocalGuess, WeightPerturbation),
    ("local guess, activity", REVERSE, LocalGuess, ActivityPerturbation),
    ("local guess, activity", FORWARD, LocalGuess, ActivityPerturbation),
    ("gaussian guess, activity", REVERSE, GaussianGuess, ActivityPerturbation),
    ("gaussian guess, activity", FORWARD, GaussianGuess, ActivityPerturbation),
]


def make_network() -> nn.Sequential:
    """An ordinary convolutional network, as you may have one; it knows nothing of blocks."""
    return nn.Sequential(
        *(nn.Conv2d(1, 8, 3, padding=1), nn.GroupNorm(2, 8), nn.ReLU()),
        *(nn.Conv2d(8, 16, 3, stride=2, padding=1), nn.GroupNorm(2, 16), nn.ReLU()),
        *(nn.Conv2d(16, 32, 3, padding=1), nn.GroupNorm(4, 32), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(2), nn.Flatten()),
        nn.Linear(128, 10),
    )


def digits() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Images ``(n, 1, 8, 8)`` of about unit scale and labels ``(n,)``: 1437 to train on, 360 to test on."""
    images, labels = load_digits(return_X_y=True)
    images = torch.tensor(images, dtype=torch.float32).view(-1, 1, 8, 8) / 8 - 0.6
    labels = torch.tensor(labels)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    test, train = order[:360], order[360:]
    return images[train], labels[train], images[test], labels[test]


def main(epochs: int = 6) -> None:
    """Train a network by each estimator and print one table."""
    torch.set_num_threads(1)  # networks this small gain nothing from more
    images, labels, test_images, test_labels = digits()
    print(f"{'':26}{'engine':9}{'train loss':>11}{'test accuracy':>15}{'time':>8}")
    for name, engine, guess, perturbation in ROWS:
        torch.manual_seed(0)
        network = make_network()
        # Blocks begin at the second and third convolution. The layers stay the same objects as those of the network.
        model = split(
            network, [3, 6], images[:2], lambda h, classes: CNNAuxiliary(h.shape[1], classes, hidden=8, depth=1)
        )
        estimator = GradientEstimator(GlobalTarget(), guess(), perturbation(), engine=engine)
        optimizer = torch.optim.SGD(estimator.trained_parameters(model), lr=0.02, momentum=0.9)
        start = time.perf_counter()
        for _ in range(epochs):
            for batch in torch.randperm(len(images)).split(64):
                estimator.estimate(model, images[batch], labels[batch])  # leaves the estimate in .grad
                optimizer.step()
        took = time.perf_counter() - start
        with torch.no_grad():
            loss = cross_entropy(network(images), labels)
            accuracy = (network(test_images).argmax(1) == test_labels).float().mean()
        row = f"{name:26}{'forward' if engine is FORWARD else 'reverse':9}"
        print(f"{row}{loss:11.3f}{100 * accuracy:13.1f} %{took:6.1f} s", flush=True)


if __name__ == "__main__":
    main()
