"""Curves of a few steps of training, as they were when last looked at.

Renewed by ``python tests/estimators/test_golden.py`` where a change of numbers is wanted, with a line in the changelog.
"""

import json
from pathlib import Path

import pytest
import torch
from helpers import build

FILE = Path(__file__).with_name("golden.json")
STEPS = 20
NARROW = {"model.width": 1 / 16}

CURVES = {
    "backpropagation": ({}, {"guess": "exact"}),
    "local learning": ({}, {"guess": "exact", "target": "local"}),
    "local guess, activity": ({}, {"guess": "local", "perturb": "activity"}),
    "local guess, weight": ({}, {"guess": "local", "perturb": "weight"}),
    "local guess, weight, intermediate": ({}, {"guess": "local", "perturb": "weight", "target": "intermediate"}),
    "local guess, weight per sample": ({}, {"guess": "local", "perturb": "weight_per_sample"}),
    "local guess, span": ({}, {"guess": "local", "perturb": "activity_span"}),
    "local guess, filters, 16 blocks": (
        {"perturb.granularity": "filter"},
        {"guess": "local", "perturb": "weight", "model": "resnet18_16", "aux": "linear"},
    ),
    "ntk guess, weight": ({}, {"guess": "ntk", "perturb": "weight", "aux": "mlp"}),
    "gaussian guess, activity": ({}, {"guess": "gaussian", "perturb": "activity"}),
    "gaussian guess, weight": ({}, {"guess": "gaussian", "perturb": "weight"}),
    "gaussian guess, weight, forward mode": ({}, {"guess": "gaussian", "perturb": "weight", "engine": "forward"}),
    "momentum guess, weight, finite differences": ({}, {"guess": "momentum", "perturb": "weight", "engine": "finite"}),
    "direct feedback, activity": ({"perturb.coefficient": "one"}, {"guess": "dfa", "perturb": "activity"}),
}


def made_with():
    """What decides on the last bits."""
    return {"torch": torch.__version__, "instructions": torch.backends.cpu.get_cpu_capability()}


def curve(name):
    """The losses and the norms of all gradients of some steps of plain gradient descent, in double precision."""
    settings, choices = CURVES[name]
    model, estimator, (images, labels) = build({**NARROW, **settings}, batch=8, data="digits", **choices)
    optimizer = torch.optim.SGD(estimator.trained_parameters(model), lr=2e-4)
    losses, norms = [], []
    for step in range(STEPS):
        torch.manual_seed(step)
        losses.append(float(estimator.estimate(model, images, labels).loss))
        norms.append(float(torch.stack([p.grad.norm() for p in model.parameters() if p.grad is not None]).norm()))
        optimizer.step()
    return {"losses": losses, "norms": norms}


@pytest.mark.skipif(made_with()["instructions"] not in ("AVX2", "AVX512"), reason="draws other random numbers")
@pytest.mark.parametrize("name", CURVES)
def test_training_goes_as_it_went(name):
    known, found = json.loads(FILE.read_text()), curve(name)
    same = known["made with"] == made_with()
    for part, values in known["curves"][name].items():
        assert found[part] == (values if same else pytest.approx(values, rel=1e-5)), part


if __name__ == "__main__":
    torch.set_num_threads(1)
    curves = {name: curve(name) for name in CURVES}
    FILE.write_text(json.dumps({"made with": made_with(), "curves": curves}, indent=1) + "\n")
