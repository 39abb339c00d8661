"""Settings of data sets that are out of range or do not fit the files."""

import re

import pytest
from image_files import (
    make,
)

from fglight.errors import ConfigError

BAD_SETTINGS = [
    ({"batch_size": 1}, "data.batch_size must be an integer from 2 up, for batch normalisation, got 1"),
    ({"batch_size": 2.5}, "normalisation, got 2.5"),
    ({"batch_size": True}, "normalisation, got True"),
    ({"holdout": 1}, "data.holdout must be in [0, 1), got 1"),
    ({"holdout": -0.1}, "data.holdout must be in [0, 1), got -0.1"),
    ({"holdout": "half"}, "data.holdout must be in [0, 1), got half"),
    ({"mean": [0.5, 0.5]}, " channels, got [0.5, 0.5]"),
    ({"std": 0.5}, "channels, got 0.5"),
]


@pytest.mark.parametrize("name", ["digits", "imagenette"])
@pytest.mark.parametrize(("settings", "message"), BAD_SETTINGS)
def test_settings_out_of_range(tmp_path, name, settings, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        make(name, tmp_path, **settings)


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("digits", {"std": [0.0]}, "data.std must be above 0 in every channel, got [0.0]"),
        (
            "digits",
            {"num_classes": 11},
            "data.num_classes must be 10, as in digits, got 11",
        ),
        ("cifar100", {"num_classes": 20}, "data.num_classes must be 100, as in cifar100, got 20"),
        ("digits", {"image_size": 28}, "data.image_size must be 8, as in digits, got 28"),
        (
            "cifar10",
            {"in_channels": 1, "mean": [0.5], "std": [0.5]},
            "data.in_channels must be 3, as in cifar10, got 1",
        ),
        (
            "imagenette",
            {"in_channels": 1, "mean": [0.5], "std": [0.5]},
            "data.in_channels must be 3, as in the files of imagenette, got 1",
        ),
        ("imagenette", {"image_size": 0}, "data.image_size must be an integer from 1 up, got 0"),
        ("imagenette", {"size": "64px"}, "data.size must be one of full, 320px, 160px, got 64px"),
        ("imagenette", {"num_workers": -1}, "data.num_workers must be an integer from 0 up, got -1"),
    ],
)
def test_settings_that_do_not_fit_the_data_set(tmp_path, name, settings, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        make(name, tmp_path, **settings)


def test_seed_out_of_range(tmp_path):
    with pytest.raises(ConfigError, match="seed must be an integer from 0 up, got -1"):
        make("digits", tmp_path, seed=-1)


@pytest.mark.parametrize("holdout", [1e-6, 0.999])
def test_holdout_that_leaves_a_class_out(tmp_path, holdout):
    with pytest.raises(ConfigError, match=rf"data\.holdout must be a fraction that .* of every class, got {holdout} "):
        make("digits", tmp_path, holdout=holdout).setup()
