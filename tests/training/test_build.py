"""Callbacks of a configuration."""

import pytest

from fglight import load_config
from fglight.errors import ConfigError
from fglight.runs import differences
from fglight.training.build import build_callbacks


@pytest.mark.parametrize(
    ("callback", "message"),
    [
        ("+callbacks.mine=3", "callbacks.mine._target_ must be the name of a class, got 3"),
        ("+callbacks.mine._target_=gone.Away", "callbacks.mine._target_=gone.Away is not possible: No module named"),
        ("+callbacks.mine._target_=pathlib.Path", "callbacks.mine must be a callback of Lightning's, got pathlib.Path"),
        ("+callbacks.mine._target_=lightning.pytorch.callbacks.ModelCheckpoint", "leave it out, checkpoints/last.ckpt"),
        ("+callbacks.mine._target_=lightning.pytorch.callbacks.RichProgressBar", "trainer.enable_progress_bar"),
        (
            "+callbacks.early_stopping.mode=up",
            "callbacks.early_stopping is not possible: `mode` can be",
        ),
    ],
)
def test_a_callback_that_a_run_cannot_have_is_refused_in_one_line(callback, message):
    chosen = ["callbacks=early_stopping"] if "early" in callback else []
    with pytest.raises(ConfigError) as caught:
        build_callbacks(load_config([*chosen, callback.lstrip("+") if chosen else callback]))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_callbacks_are_differences_and_none_is_none():
    assert not [name for name in differences(load_config()) if name.startswith("callbacks")]
    assert "callbacks.early_stopping.patience" in differences(load_config(["callbacks=[early_stopping]"]))
