"""From a configuration to an estimator."""

from helpers import PERTURBATIONS, compose

from fglight import build_estimator, load_config
from fglight.cell import Cell
from fglight.estimators import ActivityPerturbation, Everything


def test_defaults():
    cfg = load_config()
    assert Cell.from_config(cfg) == Cell("digits", 8, 1.0, "global", "local", "cnn", "weight")
    assert (cfg.seed, cfg.probe, cfg.logger.mode, cfg.trainer.accelerator) == (0, False, "offline", "auto")


def test_the_exact_guess_ignores_the_perturbation():
    for perturb in PERTURBATIONS:
        assert isinstance(build_estimator(compose(guess="exact", perturb=perturb)).perturbation, Everything)


def test_an_estimator_has_three_parts():
    estimator = build_estimator(load_config(["target=local", "guess=ntk", "perturb=activity"]))
    assert type(estimator.target).__name__ == "LocalTarget"
    assert type(estimator.guess).__name__ == "NTKGuess"
    assert isinstance(estimator.perturbation, ActivityPerturbation)
