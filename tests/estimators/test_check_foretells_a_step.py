"""``check`` tells beforehand what a step does."""

from copy import deepcopy
from unittest.mock import patch

import pytest
import torch
from helpers import every_pair
from token_bodies import BODIES, ENGINES, TOKENS, WAYS, WIDTH, dropout, network, reentrant, tied_by_a_function
from torch import nn

from fglight.errors import BlockError
from fglight.estimators import (
    FrozenGuess,
    GlobalTarget,
    GradientEstimator,
    LocalGuess,
    ReverseMode,
    WeightPerSamplePerturbation,
)
from fglight.estimators.spaces.per_sample import SamplePart


def checked(make, engine, way):
    """What ``check`` says of layers, by path, whether a step refused, and which layers it looped over samples for."""
    blocks, inputs, labels = network(make)
    estimator = GradientEstimator(GlobalTarget(), LocalGuess(), WAYS[way](), engine=engine())
    before = deepcopy([*blocks[0].state_dict().values()]), torch.get_rng_state()
    found = {}
    for layer in estimator.check(blocks, inputs):
        found.setdefault(layer.path, set()).add((layer.block, layer.layer))
        assert bool(layer.why) == (layer.path != "fast")
    assert all(map(torch.equal, before[0], blocks[0].state_dict().values()))
    assert torch.equal(before[1], torch.get_rng_state())
    owners = {p: (j, name.rpartition(".")[0]) for j, b in enumerate(blocks) for name, p in b.body.named_parameters()}
    looped = set()
    loop = SamplePart._by_loop

    def noted(part, cotangent):
        looped.add(owners[part.parameter])
        return loop(part, cotangent)

    with patch.object(SamplePart, "_by_loop", noted):
        try:
            estimator.estimate(blocks, inputs, labels)
        except BlockError:
            return found, True, looped
    return found, False, looped


@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning", "ignore:.*nested tensors.*:UserWarning")
@every_pair(make=[*BODIES, dropout, reentrant], engine=ENGINES, way=["activity", "tensor", "weight_per_sample"])
def test_check_tells_what_a_step_does(make, engine, way):
    found, refused, looped = checked(make, engine, way)
    assert ("refused" in found) == refused
    if not refused and way == "weight_per_sample" and engine is ReverseMode:
        assert found.get("slow", set()) == looped
    if way == "activity":
        assert "slow" not in found


def test_check_of_frozen_blocks_looks_at_the_last_alone():
    blocks, inputs, _ = network(tied_by_a_function)
    size = TOKENS * WIDTH
    blocks[-1].body = nn.Sequential(nn.Flatten(), nn.Linear(size, size)).double()
    found = GradientEstimator(GlobalTarget(), FrozenGuess(), WeightPerSamplePerturbation()).check(blocks, inputs)
    assert [(layer.block, layer.path) for layer in found] == [(2, "fast")]
