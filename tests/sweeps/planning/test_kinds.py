"""What decides on the time of a step."""

from helpers import GUESSES, compose

from fglight.estimators import GaussianGuess, LocalGuess
from fglight.sweeps.planning.kinds import Kind


def test_so_are_several_auxiliary_networks_that_give_a_direction_each():
    kinds = [Kind.of(compose({"guess.combine": combine}, aux="several")) for combine in ("sum", "span")]
    assert [kind.whole for kind in kinds] == [False, True]
    assert Kind.of(compose({"aux.parts": ["cnn"]}, aux="several")) not in kinds


def test_guesses_of_ones_own_are_timed_by_themselves():
    own = compose({"guess._target_": f"{__name__}.OwnGuess"}, guess="gaussian")
    assert Kind.of(own).passes not in {Kind.of(compose(guess=guess)).passes for guess in GUESSES}
    learned = compose({"guess._target_": f"{__name__}.OwnLocalGuess"}, guess="local")
    assert Kind.of(learned).whole
    assert Kind.of(learned) != Kind.of(compose({"aux.hidden": 3, "guess._target_": f"{__name__}.OwnLocalGuess"}))


class OwnGuess(GaussianGuess):
    pass


class OwnLocalGuess(LocalGuess):
    pass


def test_what_cannot_change_a_time_is_not_timed_again():
    first = compose(guess="local")
    for changed in ({"optim.lr": 0.3}, {"data.num_classes": 100}, {"data.holdout": 0.1}, {"trainer.max_epochs": 3}):
        assert Kind.of(compose(changed, guess="local")) == Kind.of(first)
    assert Kind.of(compose(guess="exact", perturb="activity")) == Kind.of(compose(guess="exact", perturb="weight"))
    for changed in ({"model.width": 0.5}, {"data.image_size": 28}, {"data.batch_size": 64}, {"aux.hidden": 3}):
        assert Kind.of(compose(changed, guess="local")) != Kind.of(first)
    assert Kind.of(compose(guess="local", engine="forward")) != Kind.of(first)
