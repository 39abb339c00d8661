"""Predict how diabetes comes on, by a small network in every perturbation and both engines: a loss of another kind.

python examples/regression.py
"""

import time
from pathlib import Path

import torch
from torch import nn
from torchmetrics.functional import r2_score

from fglight.data.vectors import Diabetes
from fglight.estimators import (
    ActivityPerturbation,
    ActivitySpanPerturbation,
    ExactGuess,
    ForwardMode,
    FrozenGuess,
    GlobalTarget,
    GradientEstimator,
    LocalGuess,
    ReverseMode,
    WeightPerSamplePerturbation,
    WeightPerturbation,
)
from fglight.models import Block, BlockNetwork, MSELoss

REVERSE, FORWARD = ReverseMode(), ForwardMode()
ROWS = [
    ("backpropagation", REVERSE, ExactGuess, WeightPerturbation),
    ("control: frozen blocks", REVERSE, FrozenGuess, WeightPerturbation),
    ("local guess, weight", REVERSE, LocalGuess, WeightPerturbation),
    ("local guess, weight", FORWARD, LocalGuess, WeightPerturbation),
    ("local guess, weight_per_sample", REVERSE, LocalGuess, WeightPerSamplePerturbation),
    ("local guess, weight_per_sample", FORWARD, LocalGuess, WeightPerSamplePerturbation),
    ("local guess, activity", REVERSE, LocalGuess, ActivityPerturbation),
    ("local guess, activity", FORWARD, LocalGuess, ActivityPerturbation),
    ("local guess, activity_span", REVERSE, LocalGuess, ActivitySpanPerturbation),
    ("local guess, activity_span", FORWARD, LocalGuess, ActivitySpanPerturbation),
]


def make_network() -> BlockNetwork:
    """Three blocks; auxiliary networks and head give one number, as the labels are, and the loss is of these two."""

    def block(inputs: int, outputs: int) -> Block:
        return Block(nn.Sequential(nn.Linear(inputs, outputs), nn.Tanh()), nn.Linear(outputs, 1))

    return BlockNetwork([block(10, 16), block(16, 16), block(16, 16)], loss=MSELoss())


def main(epochs: int = 10) -> None:
    """Train a network by each estimator and print one table."""
    torch.set_num_threads(1)  # networks this small gain nothing from more
    (inputs, labels), (test_inputs, test_labels) = Diabetes().load(Path())  # (patients, 10) and (patients, 1)
    print(f"{'':32}{'engine':9}{'train loss':>11}{'test R2':>9}{'time':>8}")
    for name, engine, guess, perturbation in ROWS:
        torch.manual_seed(0)
        model = make_network()
        estimator = GradientEstimator(GlobalTarget(), guess(), perturbation(), engine=engine)
        optimizer = torch.optim.SGD(estimator.trained_parameters(model), lr=0.02, momentum=0.9, weight_decay=1e-3)
        start = time.perf_counter()
        for _ in range(epochs):
            for batch in torch.randperm(len(inputs)).split(32):
                estimator.estimate(model, inputs[batch], labels[batch])  # leaves the estimate in .grad
                optimizer.step()
        took = time.perf_counter() - start
        with torch.no_grad():
            loss = nn.functional.mse_loss(model(inputs), labels)
            score = r2_score(model(test_inputs), test_labels)
        row = f"{name:32}{'forward' if engine is FORWARD else 'reverse':9}"
        print(f"{row}{loss:11.3f}{score:9.3f}{took:6.1f} s", flush=True)


if __name__ == "__main__":
    main()
