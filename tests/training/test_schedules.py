"""Optimizers, schedules and clipped gradients."""

from functools import partial

import lightning as L
import pytest
import torch
from fitting import BATCHES, CLASSES, fit
from helpers import build, estimator_of, module_of
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
        self.block_rates = []

    def on_train_batch_start(self, trainer, module, *_):
        self.before = [p.detach().clone() for p in module.model.parameters()]
        self.rates.append(trainer.optimizers[0].param_groups[0]["lr"])
        self.block_rates.append(trainer.optimizers[0].param_groups[-1]["lr"])

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


def test_the_schedule_takes_the_steps_that_it_is_given(tmp_path):
    """Its three epochs pass in four steps, as early as they can be told apart."""
    scheduler = partial(torch.optim.lr_scheduler.StepLR, step_size=1, gamma=0.5)
    settings = {"optimizer": partial(torch.optim.Adam, lr=1e-3), "scheduler": scheduler, "schedule": (3, 4)}
    halvings = [0, 0, 1, 2, 3, 3]
    assert traced(tmp_path, **settings).rates == [1e-3 / 2**count for count in halvings]


@pytest.mark.parametrize("block_lr", [None, 4e-4])
def test_steps_are_shorter_at_first_and_the_rates_are_those_of_the_schedule_after(block_lr, tmp_path):
    """Plain gradient descent on the same gradients: the first of four steps is a fourth as long."""

    def first_move(warmup):
        descent = partial(torch.optim.SGD, lr=1e-3)
        return traced(tmp_path / str(warmup), optimizer=descent, warmup=warmup, block_lr=block_lr)

    plain, warm = first_move(0), first_move(4)
    assert warm.moves[0] == pytest.approx(plain.moves[0] / 4, rel=1e-3)
    assert warm.moves[1] == pytest.approx(plain.moves[1] / 2, rel=0.1)
    assert warm.rates == plain.rates


def test_blocks_have_a_rate_of_their_own_and_the_schedule_is_of_both(tmp_path):
    scheduler = partial(torch.optim.lr_scheduler.StepLR, step_size=1, gamma=0.5)
    descent = partial(torch.optim.SGD, lr=1e-3)
    trace = traced(tmp_path, optimizer=descent, scheduler=scheduler, block_lr=4e-3)
    assert trace.rates == [1e-3] * 3 + [5e-4] * 3
    assert trace.block_rates == [4e-3] * 3 + [2e-3] * 3


def test_the_rate_of_blocks_is_that_of_all_bodies_but_the_last():
    model, estimator, _ = build({"model.width": 1 / 64})
    groups = module_of(model, estimator, block_lr=1.0).configure_optimizers()["optimizer"].param_groups
    bodies = {p for block in model.blocks[:-1] for p in block.body.parameters()}
    assert [group["lr"] for group in groups] == [0.05, 1.0]
    assert {*groups[1]["params"]} == bodies
    assert {*groups[0]["params"]} | bodies == {*estimator.trained_parameters(model)}


@pytest.mark.parametrize(
    ("overrides", "steps"),
    [
        (["guess=exact"], 20),  # a forward pass, and a backward one that takes two; at block 0 a bit less
        (["guess=exact", "trainer.max_steps=-1", "data.batch_size=400"], 20),
        (["target=local", "guess=exact", "aux=linear"], 22),
    ],
)
def test_training_may_last_as_many_forward_passes_as_are_given(overrides, steps, tmp_path, capsys):
    tiny = [
        "model.width=0.0625",
        "logger.mode=disabled",
        "trainer.accelerator=cpu",
        "trainer.enable_progress_bar=false",
    ]
    result = train(load_config([*tiny, *overrides, "trainer.max_forwards=60", "trainer.max_epochs=4"]), tmp_path)
    assert result["steps"] == steps
    assert result["differences"]["trainer.max_forwards"] == 60
    assert f"to epoch {result['epoch'] + 1} │" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["trainer.max_forwards=2"], r"must be at least the 3\.0 forward passes that a step takes, got 2"),
        (["trainer.max_forwards=20", "trainer.max_steps=3"], "says how long training is: leave out trainer.max_steps"),
    ],
)
def test_what_no_training_can_cost_is_refused(overrides, words, tmp_path):
    with pytest.raises(ConfigError, match=rf"^trainer\.max_forwards {words}$"):
        train(load_config(["guess=exact", "model.width=0.0625", "logger.mode=disabled", *overrides]), tmp_path)
