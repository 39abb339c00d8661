"""Buffers are where one forward pass leaves them."""

from copy import deepcopy

import torch
from helpers import (
    GUESSES,
    PERTURBATIONS,
    TARGETS,
    assert_close,
    build,
    every_pair,
    uses_auxiliaries,
)
from token_bodies import CLASSES, ENGINES, SAMPLES, TOKENS, WAYS, WIDTH, linear
from torch import nn

from fglight.estimators import (
    ActivityPerturbation,
    ExactGuess,
    FixedNTKGuess,
    GaussianGuess,
    GlobalTarget,
    GradientEstimator,
    IntermediateTarget,
    LocalGuess,
    LocalTarget,
    NTKGuess,
    ReverseMode,
    WeightPerturbation,
)
from fglight.models import Block


class Restless(nn.Module):
    """Calls its layers, and counts how often."""

    def __init__(self, *layers):
        super().__init__()
        self.layers = nn.Sequential(*layers)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x):
        self.calls += 1
        return self.layers(x) * (1 + self.calls)


def restless():
    """Two blocks and a last one, and a batch; batch norm couples the samples."""
    torch.manual_seed(0)
    blocks = []
    for _ in range(3):
        norms = nn.BatchNorm1d(TOKENS, momentum=None), nn.InstanceNorm1d(TOKENS, track_running_stats=True)
        body = Restless(linear(), norms[0], nn.utils.spectral_norm(linear()), norms[1], nn.BatchNorm1d(TOKENS))
        layers = nn.Flatten(), nn.Linear(TOKENS * WIDTH, CLASSES), nn.BatchNorm1d(CLASSES, momentum=None)
        blocks.append(Block(body, Restless(*layers, nn.utils.spectral_norm(nn.Linear(CLASSES, CLASSES)))).double())
    return blocks, torch.randn(SAMPLES, TOKENS, WIDTH, dtype=torch.float64), torch.arange(SAMPLES) % CLASSES


ALL_GUESSES = {
    "exact": ExactGuess,
    "local": LocalGuess,
    "ntk": NTKGuess,
    "several ntk": lambda: NTKGuess(2),
    "fixed_ntk": FixedNTKGuess,
    "gaussian": GaussianGuess,
    "several gaussian": lambda: GaussianGuess(2),
}


ALL_WAYS = {**WAYS, "channel": lambda: ActivityPerturbation("channel"), "block": lambda: WeightPerturbation("block")}


@every_pair(engine=ENGINES, guess=ALL_GUESSES, aims=[GlobalTarget, LocalTarget, IntermediateTarget], way=ALL_WAYS)
def test_every_buffer_is_where_one_forward_pass_leaves_it(engine, guess, aims, way):
    if guess == "exact":
        engine = ReverseMode
    blocks, inputs, labels = restless()
    estimator = GradientEstimator(aims(), ALL_GUESSES[guess](), ALL_WAYS[way](), engine=engine())
    estimator.guess.prepare = lambda blocks: None  # redrawn auxiliaries are compared with themselves
    plain, hidden = deepcopy(blocks), inputs
    for block in plain:
        hidden = block.body(hidden)
        if estimator.evaluates_auxiliaries or block is plain[-1]:
            block.aux(hidden)
    parameters = [p.detach().clone() for block in blocks for p in block.parameters()]
    estimator.estimate(blocks, inputs, labels)
    assert all(torch.equal(*pair) for pair in zip((p for block in blocks for p in block.parameters()), parameters))
    for j, (block, other) in enumerate(zip(blocks, plain)):
        for (name, buffer), right in zip(block.named_buffers(), other.buffers()):
            assert_close(buffer.double(), right.double(), 1e-9, f"block {j}, {name}")


@every_pair(target=TARGETS, guess=GUESSES, perturb=PERTURBATIONS)
def test_running_statistics_move_once_a_step(target, guess, perturb):
    model, estimator, (images, labels) = build(target=target, guess=guess, perturb=perturb)
    plain = deepcopy(model)
    torch.manual_seed(1)
    estimator.estimate(model, images, labels)
    if guess == "ntk":
        plain.load_state_dict({**plain.state_dict(), **dict(model.named_parameters())})
    with torch.no_grad():
        hidden = images
        for block in plain.blocks:
            hidden = block.body(hidden)
            if uses_auxiliaries(target, guess) or block is plain.blocks[-1]:
                block.aux(hidden)
    for name, buffer in plain.named_buffers():
        assert torch.equal(buffer, dict(model.named_buffers())[name]), name
    assert int(model.blocks[0].body[1].num_batches_tracked) == 1
