"""What single settings allow, and several do not go together."""

import pytest
from helpers import compose

from fglight import build_estimator, build_model
from fglight.config import check_config
from fglight.errors import ConfigError


@pytest.mark.parametrize(("stem", "size"), [("imagenet", 31), ("cifar", 7)])
def test_an_image_too_small_for_the_network_is_refused(stem, size):
    with pytest.raises(ConfigError, match=rf"^data\.image_size must be .*model\.stem={stem}, got {size}"):
        build_model(compose({"model.stem": stem, "data.image_size": size}))
    build_model(compose({"model.stem": stem, "data.image_size": size + 1}))


def test_a_hidden_width_of_the_linear_auxiliary_is_refused():
    with pytest.raises(ConfigError, match=r"aux\.hidden must be null for aux=linear, got 3"):
        check_config(compose({"aux.hidden": 3}, aux="linear"))


@pytest.mark.parametrize(
    ("perturb", "granularity"),
    [
        *((perturb, word) for perturb in ("activity", "activity_span") for word in ("tensor", "block", "network")),
        ("weight_per_sample", "block"),
        ("weight_per_sample", "network"),
        ("weight", "sample"),
        ("weight", "layer"),
        ("weight", 3),
    ],
)
@pytest.mark.parametrize("guess", ["local", "exact"])
def test_a_granularity_that_means_nothing_is_refused(perturb, granularity, guess):
    with pytest.raises(ConfigError, match=rf"perturb\.granularity.*{granularity}"):
        build_estimator(compose({"perturb.granularity": granularity}, perturb=perturb, guess=guess))


@pytest.mark.parametrize("guess", ["ntk", "fixed_ntk"])
def test_a_probe_of_networks_that_must_not_train_is_refused(guess):
    with pytest.raises(ConfigError, match=r"probe=true.*probe=false"):
        build_estimator(compose({"probe": True}, guess=guess))
    with pytest.raises(ConfigError, match=r"probe=true.*aux\.trained"):
        build_estimator(compose({"probe": True, "aux.trained": False}, guess="local"))
    build_estimator(compose({"probe": True, "aux.trained": False}, guess="gaussian"))


def test_synchronised_batch_norm_is_refused_where_its_statistics_are_not_known():
    settings = {"trainer.sync_batchnorm": True, "trainer.devices": 2}
    with pytest.raises(ConfigError, match=r"trainer\.sync_batchnorm must be false with perturb=weight_per_sample"):
        check_config(compose(settings, perturb="weight_per_sample"))
    check_config(compose(settings, perturb="weight"))
