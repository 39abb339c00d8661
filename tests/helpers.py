"""Small networks in double precision, the definitions computed the long way, and the comparisons that tests share."""

from copy import deepcopy
from functools import cache, partial
from itertools import combinations, product

import pytest
import torch
import torch.utils.checkpoint
from torch import nn

from fglight import build_estimator, build_model, load_config
from fglight.models import Block, SeveralAuxiliaries
from fglight.training.module import ForwardGradientModule

QUICK = (
    "aux=linear",
    "trainer.max_epochs=1",
    "trainer.limit_train_batches=2",
    "trainer.limit_val_batches=1",
    "trainer.accelerator=cpu",
    "trainer.enable_progress_bar=false",
    "logger.mode=disabled",
    "cosine=false",
)
"""Settings of a run of two steps."""

TARGETS = ("global", "local", "intermediate")
GUESSES = ("exact", "local", "ntk", "fixed_ntk", "gaussian", "rademacher")
PERTURBATIONS = ("activity", "weight", "weight_per_sample", "activity_span")
GRANULARITIES = {
    "activity": ("sample", "channel"),
    "weight": ("network", "block", "tensor", "filter"),
    "weight_per_sample": ("tensor",),
    "activity_span": ("sample",),
}
"""From coarse to fine."""
ALL_PERTURBATIONS = [(perturb, granularity) for perturb in PERTURBATIONS for granularity in GRANULARITIES[perturb]]
AUXILIARIES = ("cnn", "mlp", "linear", "predsim")
MODELS = ("resnet18_8", "resnet18_16")
DETERMINISTIC = ("local", "ntk", "fixed_ntk")
"""Guesses from auxiliary networks."""
CHECKPOINTS_HAVE_TANGENTS = not hasattr(torch.utils.checkpoint, "_NoopSaveInputs")
"""Checkpoints of torch 2.11 go through a function without a forward-mode derivative."""


def pairwise(cases):
    """Some of many combinations, in which any two values that go together do so at least once.

    An error shows, as a rule, where two settings meet: nearly all that a full product finds, in a fraction of its time.
    """
    bits = {}
    left = {case: sum({1 << bits.setdefault(p, len(bits)) for p in combinations(enumerate(case), 2)}) for case in cases}
    covered, chosen = 0, []
    while covered != (1 << len(bits)) - 1:
        best = max(left, key=lambda case: (left[case] & ~covered).bit_count())
        covered |= left[best]
        chosen.append(best)
    return chosen


def every_pair(**axes):
    """Runs a test for ``pairwise`` combinations; ``way`` stands for a perturbation with a granularity."""
    return pytest.mark.parametrize(list(axes), pairwise(product(*axes.values())), ids=_name)


def _name(value):
    return "-".join(map(str, value)) if isinstance(value, tuple) else None


every_way = pytest.mark.parametrize(("perturb", "granularity"), ALL_PERTURBATIONS)
both_engines = pytest.mark.parametrize("engine", ["reverse", "forward"])


def granular(granularity):
    return {"perturb.granularity": granularity}


def uses_auxiliaries(target, guess):
    return target != "global" or guess in DETERMINISTIC


def trains_auxiliaries(target, guess):
    return uses_auxiliaries(target, guess) and guess not in ("ntk", "fixed_ntk")


_composed = cache(lambda *overrides: load_config(list(overrides)))


def compose(settings=None, **choices):
    """The configuration of ``load_config(["guess=...", ..., "model.width=..."])``, without composing everything anew.

    ``paper/test_recipes.py`` checks that it is the same.
    """
    cfg = deepcopy(_composed("data=cifar10"))
    for group, choice in choices.items():
        cfg[group] = _composed(f"{group}={choice}")._get_node(group)  # by its text, nothing is resolved yet
    for setting, value in (settings or {}).items():
        parent, _, key = setting.rpartition(".")
        (cfg[parent] if parent else cfg)[key] = value
    return cfg


def build(settings=None, *, size=8, batch=6, seed=0, dtype=torch.float64, **choices):
    """A small network, its estimator and one batch: ``(model, estimator, (images, labels))``."""
    narrow = {"model.width": 1 / 32} if choices.get("model", MODELS[0]) in MODELS else {}
    cfg = compose({**narrow, **(settings or {})}, **choices)
    torch.manual_seed(seed)
    model = build_model(cfg).to(dtype)
    images = torch.randn(batch, cfg.data.in_channels, size, size, dtype=dtype)
    labels = torch.randint(cfg.data.num_classes, (batch,))
    return model, build_estimator(cfg), (images, labels)


def estimator_of(settings=None, **choices):
    """The estimator of a configuration."""
    return build_estimator(compose(settings, **choices))


def module_of(model, estimator, lr=0.05, weight_decay=5e-4, **settings):
    return ForwardGradientModule(
        model,
        estimator,
        optimizer=partial(torch.optim.SGD, lr=lr, momentum=0.9, weight_decay=weight_decay),
        scheduler=partial(torch.optim.lr_scheduler.StepLR, step_size=2, gamma=0.5),
        **settings,
    )


class Tap(nn.Module):
    """Adds a parameter as large as the whole batch's output: its gradient is the cotangent that arrives."""

    def __init__(self, *shape):
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(shape))

    def forward(self, x):
        return x + self.shift


def tapped_blocks(batch=5, classes=4, seed=0):
    """Four blocks of unlike layers that end in a ``Tap``, and a batch for them: ``(blocks, (images, labels))``."""
    torch.manual_seed(seed)
    bodies = [
        nn.Sequential(nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.ReLU(True), Tap(batch, 4, 6, 6)),
        nn.Sequential(nn.Conv2d(4, 6, 3, 2, 1, bias=False), nn.GroupNorm(2, 6), nn.Tanh(), Tap(batch, 6, 3, 3)),
        nn.Sequential(nn.Flatten(), nn.Linear(54, 8), nn.LayerNorm(8), nn.Tanh(), Tap(batch, 8)),
        nn.Sequential(nn.Linear(8, 8), nn.ReLU(True)),
    ]
    auxes = [nn.Sequential(nn.Flatten(), nn.Linear(size, classes)) for size in (144, 54, 8, 8)]
    blocks = [Block(body, aux).double() for body, aux in zip(bodies, auxes)]
    return blocks, (torch.randn(batch, 3, 6, 6, dtype=torch.float64), torch.randint(classes, (batch,)))


def uncoupled_blocks():
    """Five blocks that couple no samples, one of them without parameters: ``(blocks, (images, labels))``."""
    torch.manual_seed(0)
    bodies = [
        nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.GroupNorm(2, 4), nn.ReLU(inplace=True)),
        nn.Sequential(nn.Conv2d(4, 3, 3, 2), nn.Tanh()),
        nn.Tanh(),
        nn.Sequential(nn.Flatten(), nn.Linear(12, 6), nn.LayerNorm(6), nn.Tanh()),
        nn.Linear(6, 6),
    ]
    auxes = [nn.Sequential(nn.Flatten(), nn.Linear(size, 3)) for size in (100, 12, 12, 6, 6)]
    blocks = [Block(body, aux).double() for body, aux in zip(bodies, auxes)]
    return blocks, (torch.randn(5, 2, 5, 5, dtype=torch.float64), torch.arange(5) % 3)


class Squares(nn.Module):
    """An auxiliary network with a loss of its own."""

    def __init__(self, linear):
        super().__init__()
        self.linear = linear

    def loss(self, output, labels):
        logits = self.linear(output.flatten(1))
        return (logits - nn.functional.one_hot(labels, logits.shape[1])).square().mean(), logits


def blocks_with_several():
    """Blocks that couple no samples, with three auxiliary networks each, and a batch for them."""
    blocks, batch = uncoupled_blocks()
    for block in blocks[:-1]:
        size = block.aux[1].in_features
        narrow = nn.Sequential(nn.Flatten(), nn.Linear(size, 3), nn.Tanh(), nn.Linear(3, 3))
        block.aux = SeveralAuxiliaries([block.aux, narrow, Squares(nn.Linear(size, 3))]).double()
    return blocks, batch


def body_gradients(blocks):
    """The gradients of blocks 0..J-2's bodies: a list of tensors for each."""
    blocks = getattr(blocks, "blocks", blocks)
    return [[p.grad for p in block.body.parameters()] for block in blocks[:-1]]


def gradients(blocks):
    """A copy of every parameter's gradient by name; None where there is none."""
    modules = nn.ModuleList(getattr(blocks, "blocks", blocks))
    return {name: None if p.grad is None else p.grad.clone() for name, p in modules.named_parameters()}


def snapshot(module):
    """A copy of all parameters and buffers by name."""
    return {name: value.clone() for name, value in module.state_dict().items()}


def assert_close(actual, expected, tolerance=1e-9, name=""):
    """No entry is off by more than ``tolerance`` times the largest expected entry."""
    assert actual.shape == expected.shape, name
    scale = expected.abs().max()
    error = (actual - expected).abs().max()
    assert error <= tolerance * scale, f"{name}: off by {error / scale:.1e} of the largest entry, {scale:.1e}"


def assert_all_close(actual, expected, tolerance=1e-9):
    """The same for lists of lists of tensors."""
    assert [len(part) for part in actual] == [len(part) for part in expected]
    for j, (some, others) in enumerate(zip(actual, expected)):
        for i, (one, other) in enumerate(zip(some, others)):
            assert_close(one, other, tolerance, f"block {j}, tensor {i}")


def assert_same_gradients(actual, expected, tolerance=1e-9):
    """The same parameters have a gradient, and the same one."""
    assert {name for name in actual if actual[name] is not None} == {
        name for name in expected if expected[name] is not None
    }
    for name, gradient in expected.items():
        if gradient is not None:
            assert_close(actual[name], gradient, tolerance, name)
