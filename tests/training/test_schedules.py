"""Optimizers, schedules and clipped gradients."""

from functools import partial

import lightning as L
import pytest
import torch
from fitting import BATCHES, CLASSES, fit
from helpers import estimator_of
from torch import nn

from fglight import load_config
from fglight.errors import ConfigError
from fglight.models import Block, BlockNetwork
from fglight.training.module import ForwardGradientModule
from fglight.training.run import train


class Trace(L.Callback):
    """The learning rate of every step, and how far it moved the parameters."""

    def __init__(self):
        self.rates, self.moves = [], []

    def on_train_batch_start(self, trainer, module, *_):
        self.before = [p.detach().clone() for p in module.model.parameters()]
        self.rates.append(trainer.optimizers[0].param_groups[0]["lr"])

    def on_train_batch_end(self, trainer, module, *_):
        gone = [p.detach() - before for p, before in zip(module.model.parameters(), self.before)]
        self.moves.append(float(torch.stack([move.norm() for move in gone]).norm()))


def traced(folder, epochs=2, *, engine="reverse", compiled=False, **settings):
    torch.manual_seed(0)
    bodies = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 8), nn.Tanh()), nn.Linear(8, 8)
    model = BlockNetwork(Block(body, nn.Linear(8, CLASSES)) for body in bodies)
    estimator = estimator_of(engine=engine)
    if compiled:
        estimator.compile(lambda graph, inputs: graph)
    trace = Trace()
    fit(ForwardGradientModule(model, estimator, **settings), folder, epochs, callbacks=[trace], validate=False)
    return trace


@pytest.mark.parametrize(
    ("engine", "compiled"),
    [("reverse", False), ("reverse", True), ("forward", False), pytest.param("forward", True, marks=pytest.mark.slow)],
)
def test_gradients_are_clipped_to_a_total_norm(engine, compiled, tmp_path):
    settings = {"optimizer": partial(torch.optim.SGD, lr=1e-3), "engine": engine, "compiled": compiled}
    free = traced(tmp_path / "free", **settings).moves
    assert min(free) > 1e-5
    clipped = traced(tmp_path / "clipped", **settings, clip_norm=1e-2).moves
    assert clipped == pytest.approx([1e-5] * 2 * BATCHES, rel=1e-3)
    assert traced(tmp_path / "high", **settings, clip_norm=1e6).moves == free


@pytest.mark.parametrize(("interval", "halvings"), [("epoch", [0, 0, 0, 1, 1, 1]), ("step", [0, 1, 2, 3, 4, 5])])
def test_a_schedule_moves_on_when_it_is_asked_to(interval, halvings, tmp_path):
    scheduler = partial(torch.optim.lr_scheduler.StepLR, step_size=1, gamma=0.5)
    settings = {"optimizer": partial(torch.optim.Adam, lr=1e-3), "scheduler": scheduler, "interval": interval}
    assert traced(tmp_path, **settings).rates == [1e-3 / 2**count for count in halvings]


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (
            ["optim=any", "optim._target_=torch.optim.SGD", "optim.nesterov=true"],
            "optim=torch.optim.SGD is not possible",
        ),
        (["scheduler=any", "scheduler._target_=torch.optim.lr_scheduler.ExponentialLR"], "argument: 'gamma'"),
        (["scheduler=any", "scheduler._target_=torch.optim.lr_scheduler.ReduceLROnPlateau"], "waits for a metric"),
    ],
)
def test_what_an_optimizer_or_a_schedule_refuses_is_one_line(overrides, words, tmp_path):
    cfg = load_config([*overrides, "model.width=0.0625", "logger.mode=disabled", "trainer.accelerator=cpu"])
    with pytest.raises(ConfigError, match=words) as refused:
        train(cfg, tmp_path)
    assert "\n" not in str(refused.value)


def test_without_a_scheduler_the_learning_rate_stays(tmp_path):
    assert set(traced(tmp_path, optimizer=partial(torch.optim.AdamW, lr=1e-3)).rates) == {1e-3}
