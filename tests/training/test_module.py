"""The Lightning module: what a step does and what it logs."""

from copy import deepcopy

import lightning as L
import pytest
import torch
import torch.nn.functional as F
from fitting import BATCH, BATCHES, TINY, Images, fit, logged
from helpers import assert_same_gradients, build, gradients, module_of
from torch.optim.optimizer import register_optimizer_step_pre_hook

from fglight.models import exact_blocks

# Metrics


def evaluate(model, images, labels):
    """Losses and accuracies of all blocks in evaluation mode, over all images at once."""
    model = deepcopy(model).eval()
    results, hidden = [], images
    with torch.no_grad():
        for block in model.blocks:
            hidden = block.body(hidden)
            logits = block.aux(hidden)
            results.append(
                (F.cross_entropy(logits, labels).item(), (logits.argmax(1) == labels).double().mean().item())
            )
    return results


@pytest.mark.parametrize(
    ("guess", "settings", "auxiliaries"),
    [("local", {}, True), ("exact", {}, False), ("gaussian", {}, False), ("gaussian", {"probe": True}, True)],
)
def test_logged_metrics_are_what_a_plain_computation_gives(guess, settings, auxiliaries, tmp_path):
    model, estimator, _ = build({**TINY, **settings}, guess=guess, dtype=torch.float32)
    start = deepcopy(model)
    module = module_of(model, estimator, lr=1e-12, weight_decay=0.0)  # a network that stays as it is
    rows = fit(module, tmp_path)

    data = Images()
    expected = evaluate(model, data.images, data.labels)
    assert logged(rows, "test/loss") == pytest.approx([expected[-1][0]], rel=1e-4)
    assert logged(rows, "test/accuracy") == pytest.approx([expected[-1][1]])
    for j in range(7):
        present = [expected[j][0]] if auxiliaries else []
        assert logged(rows, f"test/local_loss/block{j}") == pytest.approx(present, rel=1e-4)
        assert logged(rows, f"test/local_accuracy/block{j}") == pytest.approx([expected[j][1]] if auxiliaries else [])

    losses, correct = [], 0
    for images, labels in zip(data.images.split(BATCH), data.labels.split(BATCH)):
        with torch.no_grad():
            logits = start(images)  # in training mode: with the batch's statistics
        losses.append(F.cross_entropy(logits, labels).item())
        correct += int((logits.argmax(1) == labels).sum())
    assert logged(rows, "train/loss") == pytest.approx([sum(losses) / BATCHES], rel=1e-4)
    assert logged(rows, "train/accuracy") == pytest.approx([correct / len(data)])
    assert len(logged(rows, "train/local_loss/block0")) == auxiliaries


@pytest.mark.parametrize(
    ("guess", "auxiliaries", "cosine"), [("local", True, True), ("exact", False, False), ("gaussian", False, True)]
)
def test_what_is_logged_has_these_columns_and_no_others(guess, auxiliaries, cosine, tmp_path):
    model, estimator, _ = build(TINY, guess=guess, dtype=torch.float32)
    columns = set().union(*fit(module_of(model, estimator), tmp_path))
    expected = {
        "epoch",
        "step",
        "lr",
        *(f"{part}/{name}" for part in ("train", "test") for name in ("loss", "accuracy")),
    }
    for j in range(7):
        expected |= {f"cosine/block{j}"} if cosine else set()
        names = ("local_loss", "local_accuracy") if auxiliaries else ()
        expected |= {f"{part}/{name}/block{j}" for part in ("train", "test") for name in names}
    assert columns == expected


def test_cosines_are_logged_as_often_as_asked(tmp_path):
    def points(name, every, **settings):
        model, estimator, _ = build(TINY, dtype=torch.float32)
        rows = fit(module_of(model, estimator, **settings), tmp_path / name, 2, every=every, validate=False)
        return {row["step"]: [row[f"cosine/block{j}"] for j in range(7)] for row in rows if "cosine/block0" in row}

    each = points("each", 1)
    assert list(each) == [*range(2 * BATCHES)]
    assert points("third", 3) == {step: each[step] for step in (2, 5)}
    assert points("off", 1, cosine=False) == {}


# Training


def test_a_step_is_the_estimate_and_sgd(tmp_path):
    """Also: a run repeats another with the same seed bit by bit, and every step draws with a seed of its own."""
    seeds, models = [], []

    class Seeds(L.Callback):
        def on_train_batch_end(self, *_):
            seeds.append(torch.initial_seed())

    for name in ("one", "other"):
        model, estimator, _ = build(TINY, guess="gaussian", dtype=torch.float32)
        alone = deepcopy(model)
        fit(module_of(model, estimator, lr=1e-3, seed=3), tmp_path / name, callbacks=[Seeds()], validate=False)
        models.append(model.state_dict())
    assert all(torch.equal(one, other) for one, other in zip(*map(dict.values, models)))
    assert len(set(seeds)) == BATCHES
    assert seeds == seeds[:BATCHES] * 2

    optimizer = torch.optim.SGD(estimator.trained_parameters(alone), lr=1e-3, momentum=0.9, weight_decay=5e-4)
    start, data = deepcopy(alone.state_dict()), Images()
    for seed, images, labels in zip(seeds, data.images.split(BATCH), data.labels.split(BATCH)):
        torch.manual_seed(seed)
        estimator.estimate(alone, images, labels)
        optimizer.step()
    for name, value in alone.named_parameters():
        moved = (value - start[name]).abs().max()
        assert (models[0][name] - value).abs().max() <= 1e-2 * moved, name


def test_the_learning_rate_follows_the_schedule(tmp_path):
    model, estimator, _ = build(TINY, guess="exact", dtype=torch.float32)
    rows = fit(module_of(model, estimator, lr=8e-4), tmp_path, epochs=5, validate=False)
    assert logged(rows, "lr") == pytest.approx([8e-4, 8e-4, 4e-4, 4e-4, 2e-4])


@pytest.mark.parametrize(
    ("guess", "settings", "in_optimizer"),
    [
        ("local", {}, True),
        ("fixed_ntk", {}, False),
        ("ntk", {}, False),
        ("exact", {}, False),
        ("exact", {"probe": True}, True),
        ("local", {"aux.trained": False}, False),
    ],
)
def test_auxiliaries_are_in_the_optimizer_only_where_they_train(guess, settings, in_optimizer):
    model, estimator, _ = build({**TINY, **settings}, guess=guess)
    optimizer = module_of(model, estimator).configure_optimizers()["optimizer"]
    held = [id(p) for group in optimizer.param_groups for p in group["params"]]
    assert len(held) == len(set(held))
    for j, block in enumerate(model.blocks):
        assert all(id(p) in held for p in block.body.parameters())
        assert all((id(p) in held) == (in_optimizer or j == 7) for p in block.aux.parameters())


def test_fixed_ntk_auxiliaries_stay_through_training(tmp_path):
    model, estimator, _ = build(TINY, guess="fixed_ntk", dtype=torch.float32)
    before = {name: p.clone() for name, p in model.named_parameters()}
    fit(module_of(model, estimator), tmp_path, validate=False)
    for name, parameter in model.named_parameters():
        fixed = ".aux." in name and not name.startswith("blocks.7")
        assert torch.equal(parameter, before[name]) == fixed, name


@pytest.mark.parametrize("perturb", ["activity", "activity_span", "weight", "weight_per_sample"])
@pytest.mark.parametrize("guess", ["local", "exact"])
def test_the_layout_in_memory_changes_no_estimate(guess, perturb):
    results = []
    for layout in (torch.contiguous_format, torch.channels_last):
        model, estimator, (images, labels) = build({"aux.hidden": 4}, guess=guess, perturb=perturb)
        model.to(memory_format=layout)
        estimator.estimate(model, images.contiguous(memory_format=layout), labels, cosine=True)
        results.append(gradients(model))
    assert_same_gradients(results[1], results[0])


# Measures


@pytest.mark.parametrize("settings", [{"guess": "gaussian"}, {"guess": "frozen"}])
def test_measuring_logs_every_block_and_changes_nothing(tmp_path, settings):
    rows, weights = {}, {}
    for measured in (False, True):
        model, estimator, _ = build(TINY, dtype=torch.float32, **settings)
        module = module_of(model, estimator, measure=measured)
        rows[measured] = fit(module, tmp_path / str(measured), epochs=2)
        weights[measured] = module.model.state_dict()
    torch.testing.assert_close(weights[True], weights[False], rtol=0, atol=0)
    last = len(module.model.blocks) - 1
    for name in ("target", "estimate", "alignment", "decrease"):
        assert len(logged(rows[True], f"{name}/block{last - 1}")) == 2 * BATCHES
        assert not logged(rows[True], f"{name}/block{last}")
        assert not logged(rows[False], f"{name}/block0")
    assert all(logged(rows[True], name)[-1] >= 0 for name in ("derivatives/taken", "costs/memory", "costs/forwards"))


def test_where_directions_are_drawn_again_the_optimizer_takes_each_gradient_as_it_comes(tmp_path):
    found, there = [], []
    handle = register_optimizer_step_pre_hook(
        lambda optimizer, *_: there.append(sum(p.grad is not None for p in optimizer.param_groups[0]["params"]))
    )
    for redraw in (False, True):
        settings = {**TINY, "engine.redraw": redraw, "engine.step": 1e-2, "perturb.granularity": "network"}
        model, estimator, _ = build(settings, guess="gaussian", engine="finite", dtype=torch.float32)
        start, cut = [p.detach().clone() for p in estimator.trained_parameters(model)], exact_blocks(model, 0)
        rows = fit(module_of(cut, estimator), tmp_path / str(redraw))
        assert logged(rows, "step")[-1] == BATCHES - 1
        assert max(there) == (1 if redraw else len(start))
        there.clear()
        found.append([p.detach() for p in estimator.trained_parameters(model)])
    handle.remove()
    for one, other, before in zip(*found, start):
        assert (one - other).norm() < 1e-2 * (one - before).norm()
