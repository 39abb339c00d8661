"""How the time of a step is measured."""

import pytest
from helpers import GUESSES, compose

from fglight import build_estimator, build_model
from fglight.sweeps.planning import timing


@pytest.mark.parametrize(
    ("enough", "expected"),
    [(0.01, [2, 2, 8, 8]), (0.15, [2, 2, 8, 8, 32, 32]), (100, [2, 2, 8, 8, 32, 32, 128, 128])],
)
def test_the_time_of_a_batch_is_extrapolated_from_small_ones(enough, expected, monkeypatch):
    sizes = []

    def time(network, step, batch):
        sizes.append(len(batch[0]))
        first = sizes.count(sizes[-1]) == 1  # in which what is not there yet takes time
        return 0.05 + 0.004 * sizes[-1] + 0.03 * first

    monkeypatch.setattr(timing.Network, "_time", time)
    network = timing.Network(compose({"model.width": 1 / 32, "data.image_size": 8}))
    taken = network.testing(enough)
    assert taken.step == pytest.approx(0.05)
    assert taken.of(128) == pytest.approx(0.05 + 0.004 * 128)
    assert sizes == expected


def test_long_steps_are_timed_once_and_disturbed_ones_do_no_harm(monkeypatch):
    taken = iter([5, 3])  # a small batch, and a larger one that takes less
    monkeypatch.setattr(timing.Network, "_time", lambda *_: next(taken))
    network = timing.Network(compose({"model.width": 1 / 32, "data.image_size": 8}))
    assert network.testing(0.1).of(128) == 3


@pytest.mark.parametrize("guess", GUESSES)
@pytest.mark.parametrize("target", ["global", "local"])
def test_parts_are_timed_as_a_step_has_them(guess, target, monkeypatch):
    """Auxiliary networks get the gradients, and the same parameters are trained, that a step would."""
    trained = []
    optimizer = timing._optimizer
    monkeypatch.setattr(timing, "_optimizer", lambda parameters: trained.append(parameters) or optimizer(parameters))
    monkeypatch.setattr(timing, "FEW", 128)
    cfg = compose({"model.width": 1 / 32, "data.image_size": 8}, guess=guess, target=target)
    network = timing.Network(cfg)
    assert network.training(cfg, 1).of(128) > 0
    estimator = build_estimator(cfg)
    assert (network.auxiliaries(cfg).of(128) > 0) == estimator.evaluates_auxiliaries
    passes, *auxiliaries = trained
    assert bool(auxiliaries) == estimator.trains_auxiliaries
    assert all(parameter.grad.isfinite().all() for parameters in trained for parameter in parameters)
    step = {"body": [*passes], "aux": [*auxiliaries[0]] if auxiliaries else []}
    expected = estimator.trained_parameters(build_model(cfg))
    pooled = 2 * 7 if estimator.trains_auxiliaries else 0  # of the auxiliary networks that stand in
    assert len(step["body"]) - pooled + len(step["aux"]) == len(expected)
