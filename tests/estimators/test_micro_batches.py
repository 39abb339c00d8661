"""Gradients of parts of a batch, accumulated one after the other."""

from copy import deepcopy

import pytest
import torch
from helpers import assert_close, assert_same_gradients, build, estimator_of, gradients, uncoupled_blocks

from fglight.diagnostics.profile import step_costs
from fglight.errors import ConfigError

TARGETS = ["global", "local", "deep_supervision"]


@pytest.mark.parametrize("parts", [2, 3, 100])
@pytest.mark.parametrize("target", TARGETS)
def test_where_no_layer_couples_samples_they_are_those_of_the_whole_batch(target, parts):
    blocks, batch = uncoupled_blocks()
    found = []
    for count in (1, parts):
        copies = deepcopy(blocks)
        step = estimator_of({"micro_batches": count}, guess="exact", target=target).estimate(copies, *batch)
        found.append((step, gradients(copies)))
    (whole, plain), (step, accumulated) = found
    assert_same_gradients(accumulated, plain, 1e-12)
    assert_close(step.loss, whole.loss)
    assert_close(step.logits, whole.logits)
    for mine, theirs in zip(step.local, whole.local, strict=True):
        assert (mine is None) == (theirs is None)
        if mine is not None:
            assert_close(mine.loss, theirs.loss)
            assert_close(mine.logits, theirs.logits)


def test_batch_norm_sees_each_part_by_itself():
    settings = {"micro_batches": 2}
    model, estimator, (images, labels) = build(settings, guess="exact")
    twin = deepcopy(model)
    estimator.estimate(model, images, labels)
    plain = estimator_of(guess="exact")
    means = None
    for part in zip(images.tensor_split(2), labels.tensor_split(2)):
        plain.estimate(twin, *part)
        here = {name: gradient / 2 for name, gradient in gradients(twin).items() if gradient is not None}
        means = here if means is None else {name: means[name] + here[name] for name in here}
    found = {name: gradient for name, gradient in gradients(model).items() if gradient is not None}
    assert_same_gradients(found, means, 1e-12)


def test_they_take_less_memory_and_as_many_operations():
    model, _, batch = build({"model.width": 1 / 16}, guess="exact", batch=64, size=32, dtype=torch.float32)
    plain, parts = (
        step_costs(estimator_of({"micro_batches": count}, guess="exact"), model.blocks, *batch) for count in (1, 4)
    )
    assert parts.forwards == pytest.approx(plain.forwards)
    assert parts.memory < 0.5 * plain.memory


@pytest.mark.parametrize(("count", "guess", "said"), [(2, "local", "use guess=exact"), (0, "exact", "a whole number")])
def test_what_means_nothing_is_refused(count, guess, said):
    with pytest.raises(ConfigError, match=f"^micro_batches .*{said}"):
        estimator_of({"micro_batches": count}, guess=guess)
