"""Settings of data sets that are out of range or do not fit the files."""

import re

import pytest
from image_files import (
    make,
)

from fglight.errors import ConfigError

BAD_SETTINGS = [
    ({"batch_size": 1}, "data.batch_size=1 is not possible: accepted is an integer from 2 up"),
    ({"batch_size": 2.5}, "data.batch_size=2.5"),
    ({"batch_size": True}, "data.batch_size=True"),
    ({"holdout": 1}, "data.holdout=1 is not possible: accepted is in [0, 1)"),
    ({"holdout": -0.1}, "data.holdout=-0.1"),
    ({"holdout": "half"}, "data.holdout=half"),
    ({"mean": [0.5, 0.5]}, "data.mean=[0.5, 0.5] is not possible: accepted is a list with one number for each of"),
    ({"std": 0.5}, "data.std=0.5"),
]


@pytest.mark.parametrize("name", ["digits", "imagenette"])
@pytest.mark.parametrize(("settings", "message"), BAD_SETTINGS)
def test_settings_out_of_range(tmp_path, name, settings, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        make(name, tmp_path, **settings)


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("digits", {"std": [0.0]}, "data.std=[0.0] is not possible: accepted is above 0"),
        (
            "digits",
            {"num_classes": 11},
            "data.num_classes=11 is not possible: accepted is 10, as in the files of digits",
        ),
        ("cifar100", {"num_classes": 20}, "data.num_classes=20 is not possible: accepted is 100"),
        ("digits", {"image_size": 28}, "data.image_size=28 is not possible: accepted is 8"),
        (
            "cifar10",
            {"in_channels": 1, "mean": [0.5], "std": [0.5]},
            "data.in_channels=1 is not possible: accepted is 3",
        ),
        ("imagenette", {"in_channels": 1, "mean": [0.5], "std": [0.5]}, "data.in_channels=1"),
        ("imagenette", {"image_size": 0}, "data.image_size=0"),
        ("imagenette", {"size": "64px"}, "data.size=64px is not possible: accepted is one of full, 320px, 160px"),
        ("imagenette", {"num_workers": -1}, "data.num_workers=-1"),
    ],
)
def test_settings_that_do_not_fit_the_data_set(tmp_path, name, settings, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        make(name, tmp_path, **settings)


def test_seed_out_of_range(tmp_path):
    with pytest.raises(ConfigError, match="seed=-1 is not possible"):
        make("digits", tmp_path, seed=-1)


@pytest.mark.parametrize("holdout", [1e-6, 0.999])
def test_holdout_that_leaves_a_class_out(tmp_path, holdout):
    with pytest.raises(ConfigError, match=rf"data\.holdout={holdout} is not possible"):
        make("digits", tmp_path, holdout=holdout).setup()
