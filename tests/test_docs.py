"""What the documentation says can be run."""

import re

import pytest
import torch
from forked import ROOT

from fglight import build_model, load_config

MIGRATING = (ROOT / "docs/migrating.md").read_text()
SETTINGS = sorted(
    {
        words.removeprefix("python train.py ")
        for words in re.findall(r"^python train\.py .*=.*$|(?<=`)[a-z][\w.]*=[^`]*(?=`)", MIGRATING, re.MULTILINE)
    }
)
"""Those of this package: the flags of the authors' code begin with dashes."""


def test_the_page_has_settings_for_every_group():
    groups = {setting.split("=")[0].split(".")[0] for words in SETTINGS for setting in words.split()}
    assert {"target", "guess", "perturb", "aux", "model", "data", "optim", "trainer", "logger", "seed"} <= groups


@pytest.mark.parametrize("words", SETTINGS)
def test_what_stands_for_a_flag_of_the_authors_code_is_accepted(words):
    overrides = words.split()
    data = [] if any(override.startswith("data=") for override in overrides) else ["data=cifar10"]
    cfg = load_config([*data, *overrides])
    with torch.device("meta"):
        model = build_model(cfg)
    assert len(model.blocks) == cfg.model.blocks
