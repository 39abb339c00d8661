"""How long steps take: what they compute, and a timed step of each network."""

from collections import Counter
from itertools import product

import pytest
import torch
from helpers import GUESSES, compose

from fglight.estimators import GaussianGuess
from fglight.sweeps import costs
from fglight.sweeps.costs import ENOUGH, Kind, Pace, Steps, Work, pace_of, timed

GROUPS = ("data", "model", "guess", "aux")
SMALL = {"model.width": 1 / 32, "data.image_size": 8, "data.batch_size": 16}


class OwnGuess(GaussianGuess):
    pass


def test_what_cannot_change_a_time_is_one_kind():
    first = compose(guess="local")
    for changed in ({"optim.lr": 0.3}, {"data.num_classes": 100}, {"data.holdout": 0.1}, {"trainer.max_epochs": 3}):
        assert Kind.of(compose(changed, guess="local")) == Kind.of(first)
    assert Kind.of(compose(guess="exact", perturb="activity")) == Kind.of(compose(guess="exact", perturb="weight"))
    for changed in ({"model.width": 0.5}, {"data.image_size": 28}, {"data.batch_size": 64}, {"aux.hidden": 3}):
        assert Kind.of(compose(changed, guess="local")) != Kind.of(first)
    assert Kind.of(compose(guess="local", engine="forward")) != Kind.of(first)
    own = compose({"guess._target_": f"{__name__}.OwnGuess"}, guess="gaussian")
    assert Kind.of(own) not in {Kind.of(compose(guess=guess)) for guess in GUESSES}


def test_work_is_what_backpropagation_through_a_layer_computes():
    layer, x = torch.nn.Linear(5, 7, bias=False), torch.randn(3, 5, requires_grad=True)
    with Work() as work:
        layer(x).backward(torch.ones(3, 7))
    assert work.total == 3 * 2 * 3 * 5 * 7  # the outputs, and gradients of weights and inputs
    outputs, weights, inputs = 3 * 7, 5 * 7, 3 * 5
    assert work.numbers == outputs + weights + inputs + outputs  # the last are the ones


def test_backpropagation_takes_what_was_timed(monkeypatch):
    monkeypatch.setattr(costs, "timed", lambda cfg: Pace(0.5, 2.0))
    monkeypatch.setattr(costs, "OPERATION", 0)
    assert Steps().times(Kind.of(compose(SMALL, guess="exact"))).training == pytest.approx(0.5 + 16 * 2, rel=0.02)


def test_all_cells_follow_from_a_step_of_each_network_and_what_each_estimator_computes(monkeypatch):
    """On a machine that knows how much estimators compute, and where images take their number of pixels."""
    done = Counter()

    def count(_, cfg, *, estimated):
        done["counted"] += 1
        work = Work()
        work.total = work.operations = cost(cfg) if estimated else 1
        return work

    def cost(cfg):
        auxiliaries = {"cnn": 0.25, "mlp": 0.75, "linear": 0.125, "predsim": 0.5}[cfg.aux.name]
        return {"global": 1, "local": 2, "intermediate": 3}[cfg.target.name] + auxiliaries * (cfg.guess.name != "exact")

    def time(cfg):
        done["timed"] += 1
        return Pace(0, cfg.model.width**2 * cfg.data.image_size**2)

    monkeypatch.setattr(Steps, "counted", count)
    monkeypatch.setattr(costs, "timed", time)
    guesses = ("exact", "local", "ntk")
    choices = product(
        (0.5, 1.0, 2.0), ("cifar10", "fashion_mnist"), ("resnet18_8", "resnet18_16"), guesses, ("cnn", "mlp")
    )
    configs = [compose({"model.width": width}, **dict(zip(GROUPS, others))) for width, *others in choices]
    steps = Steps()
    for cfg in configs:
        times = steps.times(Kind.of(cfg))
        plain = 128 * cfg.model.width**2 * cfg.data.image_size**2
        assert times.training == pytest.approx(plain * cost(cfg))
        assert times.testing == pytest.approx(plain / 3)
    plain = exact = 1
    assert done == {"timed": 2 * 2, "counted": 2 * (plain + exact + 2 * 2)}


@pytest.mark.parametrize("network", ["mlp", "vit", "resnet18_16"])
def test_any_network_is_timed_and_counted_as_it_is(network):
    cfg = compose({"data.batch_size": 4, "data.image_size": 8}, model=network)
    assert sum(vars(timed(cfg)).values()) > 0
    steps = Steps()
    assert steps.counted(cfg, estimated=True).total > steps.counted(cfg, estimated=False).total > 0


@pytest.mark.parametrize("guess", GUESSES)
def test_an_estimator_computes_as_much_more_on_the_narrow_copy_as_on_the_network(guess):
    """The paper's numbers are of width 1; here a network of width 1/4 stands for it."""
    narrow = Steps().counted(compose({"model.width": 1 / 4}, guess=guess), estimated=True)
    plain = Steps().counted(compose({"model.width": 1 / 4}, guess=guess), estimated=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(costs, "NARROW", 1 / 4)
        wide = Steps().counted(compose({"model.width": 1 / 4}, guess=guess), estimated=True)
        usual = Steps().counted(compose({"model.width": 1 / 4}, guess=guess), estimated=False)
    assert narrow.total / plain.total == pytest.approx(wide.total / usual.total, rel=0.03)


@pytest.mark.parametrize(
    ("of_image", "expected"),
    [(ENOUGH, [2, 8]), (ENOUGH / 30, [2, 8, 32]), (ENOUGH / 1000, [2, 8, 32, 128])],
)
def test_the_time_of_a_batch_is_extrapolated_from_small_ones(of_image, expected):
    sizes = []
    pace = pace_of(lambda size: sizes.append(size) or 0.05 + of_image * size, 128)
    assert (pace.step, pace.image) == (pytest.approx(0.05), pytest.approx(of_image))
    assert sizes == expected


def test_a_disturbed_batch_does_no_harm():
    taken = iter([5, 3])  # a small batch, and a larger one that takes less
    pace = pace_of(lambda size: next(taken), 8)
    assert (pace.step, pace.image) == (3, 0)
    taken = iter([1, 5])
    assert pace_of(lambda size: next(taken), 8).image == 5 / 8
