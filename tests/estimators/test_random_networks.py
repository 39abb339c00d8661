"""Networks, batches and estimators at random: an estimate is the definition's, or refused in one line."""

from itertools import cycle

import pytest
import torch
from bodies import ORDINARY, UNLIKE, WIDTH, energy, energy_whoever_calls, plain
from definition import COEFFICIENTS, Definition
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from fglight.errors import FglightError
from fglight.estimators import (
    ActivityPerturbation,
    ActivitySpanPerturbation,
    DFAGuess,
    DRTPGuess,
    FiniteDifferences,
    ForwardMode,
    GlobalTarget,
    GradientEstimator,
    IntermediateTarget,
    LocalGuess,
    LocalTarget,
    RandomGuess,
    ReverseMode,
    WeightPerSamplePerturbation,
    WeightPerturbation,
)
from fglight.estimators.targets import Target
from fglight.models import Block, BlockNetwork, SeveralAuxiliaries

CLASSES = 3
TOLERANCES = {ReverseMode: 1e-7, ForwardMode: 1e-7, FiniteDifferences: 1e-3}
WAYS = {
    "activity sample": ActivityPerturbation,
    "activity channel": ActivityPerturbation,
    "activity_span sample": ActivitySpanPerturbation,
    "weight tensor": WeightPerturbation,
    "weight filter": WeightPerturbation,
    "weight block": WeightPerturbation,
    "weight network": WeightPerturbation,
    "weight_per_sample tensor": WeightPerSamplePerturbation,
}
GUESSES = ("local", "several", "random", "dfa", "drtp")


class Wave(RandomGuess):
    """Directions that are no random numbers, and so are the definition's."""

    def __init__(self, directions, combine):
        super().__init__(directions, combine)
        self.numbers = cycle(range(directions))

    def sample(self, like):
        return wave(like, next(self.numbers))


def wave(like, number):
    return torch.cos(torch.arange(like.numel(), dtype=like.dtype) ** 2 + number).view(like.shape)


class Skipping(Target):
    """A block follows the loss of the block so many blocks on, or the network's."""

    uses_auxiliaries = True

    def __init__(self, ahead):
        self.ahead = ahead

    def loss_block(self, j, last):
        return min(j + self.ahead, last)


def auxiliary(several):
    one = nn.Linear(WIDTH, CLASSES)
    if not several:
        return one
    return SeveralAuxiliaries([one, nn.Sequential(nn.Linear(WIDTH, 3), nn.Tanh(), nn.Linear(3, CLASSES))])


TARGETS = [GlobalTarget(), LocalTarget(), IntermediateTarget(), Skipping(0), Skipping(2)]


@st.composite
def cases(draw, bodies, engines):
    """A network, a batch and an estimator, as arguments of ``check``."""
    way, guess = draw(st.sampled_from(sorted(WAYS))), draw(st.sampled_from(GUESSES))
    combine = draw(st.sampled_from(["mean", "span", "max"])) if guess in ("several", "random") else "mean"
    spans = combine == "span" or "span" in way
    return {
        "bodies": draw(st.lists(st.sampled_from(bodies), min_size=2, max_size=4)),
        "samples": draw(st.integers(1, 6)),
        "seed": draw(st.integers(0, 2**16)),
        "strided": draw(st.booleans()),
        "target": draw(st.sampled_from(TARGETS)),
        "guess": guess,
        "directions": draw(st.integers(1, 3)) if guess == "random" else 1,
        "combine": combine,
        "way": way,
        "coefficient": "projection" if spans else draw(st.sampled_from(sorted(COEFFICIENTS))),
        "engine": draw(st.sampled_from(engines)),
    }


def network(bodies, samples, seed, strided, several):
    torch.manual_seed(seed)
    blocks = [Block(body(), auxiliary(several)) for body in bodies]
    blocks.append(Block(nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Tanh()), nn.Linear(WIDTH, CLASSES)))
    images, labels = torch.randn(samples, WIDTH, dtype=torch.float64), torch.randint(CLASSES, (samples,))
    return BlockNetwork(blocks).double(), images.t().contiguous().t() if strided else images, labels


def check(bodies, samples, seed, strided, target, guess, directions, combine, way, coefficient, engine, *, refusable):
    twins = [network(bodies, samples, seed, strided, guess == "several") for _ in range(2)]
    (model, images, labels), twin = twins
    perturb, granularity = way.split()
    makers = {
        "local": LocalGuess,
        "several": lambda: LocalGuess(combine=combine),
        "random": lambda: Wave(directions, combine),
        "dfa": DFAGuess,
        "drtp": DRTPGuess,
    }
    options = {"granularity": granularity} if perturb in ("activity", "weight") else {}
    try:
        perturbation = WAYS[way](coefficient=coefficient, **options)
        estimator = GradientEstimator(target, makers[guess](), perturbation, engine=engine())
    except ValueError:
        return  # parts that do not go together
    definition, refused = Definition(*twin, copied=False), None
    try:
        estimator.estimate(model, images, labels)
    except FglightError as error:
        refused = str(error)
    if refused:
        assert refusable, refused
        assert "\n" not in refused
        assert all(p.grad is None for p in model.parameters())
        return
    if guess in ("dfa", "drtp"):  # drawn in the first step
        for block, stepped in zip(definition.blocks[:-1], model.blocks):
            block.feedback = stepped.feedback
    directions_at = {"several": definition.by_auxiliary, "dfa": definition.dfa, "drtp": definition.drtp}
    drawn = {"draw": lambda like: [wave(like, m) for m in range(directions)]} if guess == "random" else {}
    expected = definition.estimates(
        target, perturb, granularity, directions_at.get(guess), **drawn, coefficient=coefficient, combine=combine
    )
    found = [[p.grad for p in block.body.parameters() if p.requires_grad] for block in model.blocks[:-1]]
    spans = combine == "span" or perturb == "activity_span"  # of directions that may be next to parallel
    assert_near(found, expected, max(TOLERANCES[engine], 1e-5 * spans), engine)


def assert_near(found, expected, tolerance, engine):
    """Relative to a tensor's largest entry, or to a share of all tensors' where that is next to nothing."""
    largest = max([float(tensor.abs().max()) for tensors in expected for tensor in tensors] + [1e-8])
    least = largest * (0.1 if engine is FiniteDifferences else 1e-4)
    for j, (ours, theirs) in enumerate(zip(found, expected, strict=True)):
        for a, b in zip(ours, theirs, strict=True):
            error = float((a - b).abs().max()) / max(float(b.abs().max()), least)
            assert error < tolerance, f"block {j}: off by {error:.1e}"


EVERY, OTHER = list(TOLERANCES), [ForwardMode, FiniteDifferences]


def budget(examples):
    """The same examples each time; how long one takes on a busy machine says nothing."""
    return settings(
        max_examples=examples,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=[HealthCheck.too_slow],
    )


FOUND = {
    "forward mode took the target of the block below for zero": {
        "bodies": [plain, energy_whoever_calls],
        "guess": "local",
        "way": "activity sample",
        "engine": ForwardMode,
    },
    "drawing the feedback ran the body without gradients": {
        "bodies": [plain, energy],
        "guess": "dfa",
        "way": "activity sample",
        "engine": ReverseMode,
    },
}
"""What a random search found, by what went wrong."""


@pytest.mark.parametrize("found", FOUND)
def test_found_at_random(found):
    case = {"samples": 3, "seed": 0, "strided": False, "directions": 1, "combine": "mean", "coefficient": "projection"}
    check(**case, **FOUND[found], target=GlobalTarget(), refusable=FOUND[found]["engine"] is not ReverseMode)


@budget(300)
@given(case=cases(ORDINARY, EVERY))
def test_ordinary_bodies_have_the_estimates_of_the_definition_in_every_engine(case):
    check(**case, refusable=False)


@budget(300)
@given(case=cases((*ORDINARY, *UNLIKE), [ReverseMode]))
def test_in_reverse_mode_so_has_every_body(case):
    check(**case, refusable=False)


@budget(200)
@given(case=cases((*ORDINARY, *UNLIKE), OTHER))
def test_other_engines_are_right_or_refuse(case):
    check(**case, refusable=True)


@pytest.mark.slow
@budget(2000)
@given(case=cases(ORDINARY, EVERY))
def test_many_more_ordinary_bodies(case):
    check(**case, refusable=False)


@pytest.mark.slow
@budget(2000)
@given(case=cases((*ORDINARY, *UNLIKE), EVERY))
def test_many_more_of_all_bodies(case):
    check(**case, refusable=case["engine"] is not ReverseMode)
