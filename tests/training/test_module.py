"""The Lightning module: what it logs, when it stops and what its optimizer holds."""

import csv
from copy import deepcopy
from functools import partial
from pathlib import Path

import lightning as L
import pytest
import torch
import torch.nn.functional as F
from helpers import assert_same_gradients, build, estimator_of, gradients, module_of, snapshot
from lightning.pytorch.callbacks import EMAWeightAveraging, StochasticWeightAveraging
from lightning.pytorch.loggers import CSVLogger
from torch import nn
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset
from torchmetrics import MeanAbsoluteError, R2Score
from torchmetrics.classification import MulticlassAccuracy

from fglight import load_config
from fglight.errors import ConfigError, FglightError, LabelError, NonFiniteLossError
from fglight.models import Block, BlockNetwork
from fglight.training.metrics import Accuracy, BlockMetrics
from fglight.training.module import ForwardGradientModule
from fglight.training.run import LastCheckpoint, train

BATCHES, BATCH, CLASSES = 3, 8, 10
TINY = {"model.width": 1 / 64}


class Images(Dataset):
    """A few random images; from epoch ``bad_epoch`` on one of the second batch is not a number."""

    def __init__(self, bad_epoch=None):
        generator = torch.Generator().manual_seed(0)
        self.images = torch.randn(BATCHES * BATCH, 3, 8, 8, generator=generator)
        self.labels = torch.randint(CLASSES, (BATCHES * BATCH,), generator=generator)
        self.bad_epoch, self.served = bad_epoch, 0

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        epoch, self.served = self.served // len(self), self.served + 1
        image = self.images[index]
        bad = self.bad_epoch is not None and epoch >= self.bad_epoch and index == BATCH + 1
        return (image * torch.nan if bad else image), self.labels[index]


def fit(module, folder, epochs=1, bad_epoch=None, callbacks=(), every=1, validate=True):
    """Train on a few random images and return what was logged, a list of rows."""
    trainer = L.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=CSVLogger(folder, name="metrics", version=""),
        callbacks=[LastCheckpoint(Path(folder) / "checkpoints"), *callbacks],
        log_every_n_steps=every,
        num_sanity_val_steps=0,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    loader = DataLoader(Images(bad_epoch), batch_size=BATCH)
    trainer.fit(module, loader, DataLoader(Images(), batch_size=BATCH) if validate else None)
    with (Path(folder) / "metrics" / "metrics.csv").open(newline="") as file:
        return [{key: float(value) for key, value in row.items() if value} for row in csv.DictReader(file)]


def logged(rows, name):
    return [row[name] for row in rows if name in row]


# Metrics


def test_block_metrics_are_means_over_images():
    torch.manual_seed(0)
    metrics = BlockMetrics(3, {"accuracy": Accuracy(), "again": MulticlassAccuracy(4, average="micro")})
    everything = []
    for size in (5, 2):
        labels = torch.randint(4, (size,))
        logits = [torch.randn(size, 4) for _ in range(3)]
        metrics.update([F.cross_entropy(scores, labels) for scores in logits], logits, labels)
        everything.append((torch.stack(logits), labels))
    logits, labels = torch.cat([logits for logits, _ in everything], 1), torch.cat([labels for _, labels in everything])
    losses, scores = metrics.compute()
    for j in range(3):
        accuracy = pytest.approx((logits[j].argmax(1) == labels).float().mean().item())
        assert losses[j].item() == pytest.approx(F.cross_entropy(logits[j], labels).item(), rel=1e-6)
        assert scores[j] == {"accuracy": accuracy, "again": accuracy}
    metrics.reset()
    metrics.update([torch.tensor(2.0)] * 3, [torch.eye(4)] * 3, torch.arange(4))
    losses, scores = metrics.compute()
    assert losses.tolist() == [2.0] * 3
    assert scores == [{"accuracy": 1.0, "again": 1.0}] * 3


def test_block_metrics_of_the_network_alone():
    metrics = BlockMetrics(3, {"accuracy": Accuracy()})
    metrics.update([torch.tensor(2.0)], [torch.eye(4)], torch.tensor([0, 1, 0, 0]))
    losses, scores = metrics.compute()
    assert losses[-1] == 2
    assert scores == [{}, {}, {"accuracy": 0.5}]


@pytest.mark.parametrize(
    ("metrics", "labels", "words"),
    [
        ({"accuracy": Accuracy()}, torch.rand(4, 1), r"accuracy is not possible of labels \(4, 1\) of torch.float32"),
        ({"r2": R2Score()}, torch.arange(4), r"metrics r2 .* labels \(4,\) of torch.int64 with outputs \(4, 1\)"),
        ({"half": 0.5}, torch.rand(4, 1), "metric half of float is not possible"),
        ({"loss": MeanAbsoluteError()}, torch.rand(4, 1), "any name but loss"),
        ({"each": R2Score(multioutput="raw_values")}, torch.rand(4, 1).expand(4, 2), r"each gives \(2,\) numbers"),
    ],
)
def test_metrics_that_do_not_go_with_the_labels_are_refused_in_one_line(metrics, labels, words):
    def measure():
        made = BlockMetrics(1, metrics)
        made.update([torch.tensor(1.0)], [torch.rand(4, 1).expand(4, *labels.shape[1:] or (1,))], labels)
        made.compute()

    with pytest.raises(FglightError, match=words):
        measure()


def evaluate(model, images, labels):
    """Losses and accuracies of all blocks in evaluation mode, over all images at once."""
    model = deepcopy(model).eval()
    results, hidden = [], images
    with torch.no_grad():
        for block in model.blocks:
            hidden = block.body(hidden)
            logits = block.aux(hidden)
            results.append(
                (F.cross_entropy(logits, labels).item(), (logits.argmax(1) == labels).double().mean().item())
            )
    return results


@pytest.mark.parametrize(
    ("guess", "settings", "auxiliaries"),
    [("local", {}, True), ("exact", {}, False), ("gaussian", {}, False), ("gaussian", {"probe": True}, True)],
)
def test_logged_metrics_are_what_a_plain_computation_gives(guess, settings, auxiliaries, tmp_path):
    model, estimator, _ = build({**TINY, **settings}, guess=guess, dtype=torch.float32)
    start = deepcopy(model)
    module = module_of(model, estimator, lr=1e-12, weight_decay=0.0)  # a network that stays as it is
    rows = fit(module, tmp_path)

    data = Images()
    expected = evaluate(model, data.images, data.labels)
    assert logged(rows, "test/loss") == pytest.approx([expected[-1][0]], rel=1e-4)
    assert logged(rows, "test/accuracy") == pytest.approx([expected[-1][1]])
    for j in range(7):
        present = [expected[j][0]] if auxiliaries else []
        assert logged(rows, f"test/local_loss/block{j}") == pytest.approx(present, rel=1e-4)
        assert logged(rows, f"test/local_accuracy/block{j}") == pytest.approx([expected[j][1]] if auxiliaries else [])

    losses, correct = [], 0
    for images, labels in zip(data.images.split(BATCH), data.labels.split(BATCH)):
        with torch.no_grad():
            logits = start(images)  # in training mode: with the batch's statistics
        losses.append(F.cross_entropy(logits, labels).item())
        correct += int((logits.argmax(1) == labels).sum())
    assert logged(rows, "train/loss") == pytest.approx([sum(losses) / BATCHES], rel=1e-4)
    assert logged(rows, "train/accuracy") == pytest.approx([correct / len(data)])
    assert len(logged(rows, "train/local_loss/block0")) == auxiliaries


@pytest.mark.parametrize(
    ("guess", "auxiliaries", "cosine"), [("local", True, True), ("exact", False, False), ("gaussian", False, True)]
)
def test_what_is_logged_has_these_columns_and_no_others(guess, auxiliaries, cosine, tmp_path):
    model, estimator, _ = build(TINY, guess=guess, dtype=torch.float32)
    columns = set().union(*fit(module_of(model, estimator), tmp_path))
    expected = {
        "epoch",
        "step",
        "lr",
        *(f"{part}/{name}" for part in ("train", "test") for name in ("loss", "accuracy")),
    }
    for j in range(7):
        expected |= {f"cosine/block{j}"} if cosine else set()
        names = ("local_loss", "local_accuracy") if auxiliaries else ()
        expected |= {f"{part}/{name}/block{j}" for part in ("train", "test") for name in names}
    assert columns == expected


def test_cosines_are_logged_as_often_as_asked(tmp_path):
    def points(name, every, **settings):
        model, estimator, _ = build(TINY, dtype=torch.float32)
        rows = fit(module_of(model, estimator, **settings), tmp_path / name, 2, every=every, validate=False)
        return [len(logged(rows, f"cosine/block{j}")) for j in range(7)]

    assert points("each", 1) == [6] * 7
    assert points("third", 3) == [2] * 7
    assert points("off", 1, cosine=False) == [0] * 7


# Training


def test_a_step_is_the_estimate_and_sgd(tmp_path):
    """Also: a run repeats another with the same seed bit by bit, and every step draws with a seed of its own."""
    seeds, models = [], []

    class Seeds(L.Callback):
        def on_train_batch_end(self, *_):
            seeds.append(torch.initial_seed())

    for name in ("one", "other"):
        model, estimator, _ = build(TINY, guess="gaussian", dtype=torch.float32)
        alone = deepcopy(model)
        fit(module_of(model, estimator, lr=1e-3, seed=3), tmp_path / name, callbacks=[Seeds()], validate=False)
        models.append(model.state_dict())
    assert all(torch.equal(one, other) for one, other in zip(*map(dict.values, models)))
    assert len(set(seeds)) == BATCHES
    assert seeds == seeds[:BATCHES] * 2

    optimizer = torch.optim.SGD(estimator.trained_parameters(alone), lr=1e-3, momentum=0.9, weight_decay=5e-4)
    start, data = deepcopy(alone.state_dict()), Images()
    for seed, images, labels in zip(seeds, data.images.split(BATCH), data.labels.split(BATCH)):
        torch.manual_seed(seed)
        estimator.estimate(alone, images, labels)
        optimizer.step()
    for name, value in alone.named_parameters():
        moved = (value - start[name]).abs().max()
        assert (models[0][name] - value).abs().max() <= 1e-2 * moved, name


def test_the_learning_rate_follows_the_schedule(tmp_path):
    model, estimator, _ = build(TINY, guess="exact", dtype=torch.float32)
    rows = fit(module_of(model, estimator, lr=8e-4), tmp_path, epochs=5, validate=False)
    assert logged(rows, "lr") == pytest.approx([8e-4, 8e-4, 4e-4, 4e-4, 2e-4])


@pytest.mark.parametrize(
    ("guess", "settings", "in_optimizer"),
    [
        ("local", {}, True),
        ("fixed_ntk", {}, False),
        ("ntk", {}, False),
        ("exact", {}, False),
        ("exact", {"probe": True}, True),
        ("local", {"aux.trained": False}, False),
    ],
)
def test_auxiliaries_are_in_the_optimizer_only_where_they_train(guess, settings, in_optimizer):
    model, estimator, _ = build({**TINY, **settings}, guess=guess)
    optimizer = module_of(model, estimator).configure_optimizers()["optimizer"]
    held = [id(p) for group in optimizer.param_groups for p in group["params"]]
    assert len(held) == len(set(held))
    for j, block in enumerate(model.blocks):
        assert all(id(p) in held for p in block.body.parameters())
        assert all((id(p) in held) == (in_optimizer or j == 7) for p in block.aux.parameters())


def test_fixed_ntk_auxiliaries_stay_through_training(tmp_path):
    model, estimator, _ = build(TINY, guess="fixed_ntk", dtype=torch.float32)
    before = {name: p.clone() for name, p in model.named_parameters()}
    fit(module_of(model, estimator), tmp_path, validate=False)
    for name, parameter in model.named_parameters():
        fixed = ".aux." in name and not name.startswith("blocks.7")
        assert torch.equal(parameter, before[name]) == fixed, name


# Optimizer and schedule


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


# A loss that is no longer finite


@pytest.mark.parametrize("every", [1, 50])
@pytest.mark.parametrize("bad_epoch", [0, 1])
def test_a_bad_loss_stops_the_run_and_leaves_the_last_good_checkpoint(bad_epoch, every, tmp_path):
    model, estimator, _ = build(TINY, dtype=torch.float32)
    module = module_of(model, estimator)
    starts = []

    class Weights(L.Callback):
        def on_train_epoch_start(self, trainer, module):
            starts.append({name: value.clone() for name, value in module.model.state_dict().items()})

    with pytest.raises(NonFiniteLossError, match=rf"step {bad_epoch * BATCHES + 1}\b.*epoch {bad_epoch}\b.*optim\.lr"):
        fit(module, tmp_path, epochs=4, bad_epoch=bad_epoch, every=every, callbacks=[Weights()], validate=False)
    assert len(starts) == bad_epoch + 1
    until = 2 if every == 1 else BATCHES  # read at every report, or else at the end of the epoch
    assert module.trainer.global_step == bad_epoch * BATCHES + until
    saved = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    for name, value in starts[-1].items():
        assert value.isfinite().all()
        assert torch.equal(saved[f"model.{name}"], value), name


def test_a_run_that_diverges_says_so_and_is_not_a_result(tmp_path):
    quick = ["model.width=0.015625", "trainer.max_epochs=2", "trainer.accelerator=cpu"]
    quiet = ["logger.mode=disabled", "trainer.enable_progress_bar=false"]
    cfg = load_config(["optim.lr=1e20", *quick, *quiet])
    with pytest.raises(NonFiniteLossError, match=r"step \d+ .*1e\+20"):
        train(cfg, tmp_path)
    saved = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    assert all(value.isfinite().all() for value in saved.values())
    assert (tmp_path / "failure.json").exists()
    assert not (tmp_path / "result.json").exists()


@pytest.mark.parametrize("perturb", ["activity", "activity_span", "weight", "weight_per_sample"])
@pytest.mark.parametrize("guess", ["local", "exact"])
def test_the_layout_in_memory_changes_no_estimate(guess, perturb):
    results = []
    for layout in (torch.contiguous_format, torch.channels_last):
        model, estimator, (images, labels) = build({"aux.hidden": 4}, guess=guess, perturb=perturb)
        model.to(memory_format=layout)
        estimator.estimate(model, images.contiguous(memory_format=layout), labels, cosine=True)
        results.append(gradients(model))
    assert_same_gradients(results[1], results[0])


# Shortened runs

QUICKER = ("batch_size", "max_epochs")
QUICK = [
    "model.width=0.015625",
    "guess=exact",
    "data.batch_size=240",
    "trainer.max_epochs=3",
    "trainer.accelerator=cpu",
    "trainer.enable_progress_bar=false",
    "logger.mode=disabled",
]
STEPS = 6
"""Steps an epoch on digits."""


def beyond_quick(result):
    """In what a run differs from the paper's beside batch size and epochs."""
    return {name: value for name, value in result["differences"].items() if name.rpartition(".")[2] not in QUICKER}


@pytest.mark.parametrize(
    ("option", "steps", "epochs"),
    [
        ("max_steps=2", 2, 1),
        ("max_steps=12", 12, 2),
        ("max_steps=8", 8, 2),
        ("max_steps=99", 3 * STEPS, 3),
        ("limit_train_batches=1", 3, 3),
        ("limit_train_batches=0.5", 9, 3),
        ("limit_val_batches=1", 3 * STEPS, 3),
        ("fast_dev_run=true", 1, 1),
        ("fast_dev_run=2", 2, 1),
    ],
)
def test_a_shortened_run_ends_normally_and_says_so(option, steps, epochs, tmp_path, capsys):
    result = train(load_config([*QUICK, f"trainer.{option}"]), tmp_path)
    name, _, value = option.partition("=")
    out = capsys.readouterr().out
    assert beyond_quick(result).keys() == {f"trainer.{name}"}
    assert str(result["differences"][f"trainer.{name}"]).lower() == value
    assert (result["steps"], result["epoch"]) == (steps, epochs - 1)
    assert f"trainer.{name} " in out  # the summary
    assert f"{steps} step{'' if steps == 1 else 's'}, to epoch {epochs} of 3" in " ".join(out.split())

    saved = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    assert saved["global_step"] == steps
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["last.ckpt"]
    assert not (tmp_path / "failure.json").exists()
    if name != "fast_dev_run":  # of which Lightning logs nothing
        (metrics,) = tmp_path.rglob("metrics.csv")
        with metrics.open(newline="") as file:
            rows = [{key: float(value) for key, value in row.items() if value} for row in csv.DictReader(file)]
        accuracies = logged(rows, "test/accuracy")
        assert len(accuracies) == epochs
        assert accuracies[-1] == pytest.approx(result["test_accuracy"])
        assert logged(rows, "train/loss")[-1] == pytest.approx(result["train_loss"])
    before = (tmp_path / "result.json").read_text()
    assert train(load_config([*QUICK, f"trainer.{option}"]), tmp_path) == result
    assert (tmp_path / "result.json").read_text() == before


def test_max_steps_trains_the_same_steps_and_tests_what_came_of_them(tmp_path):
    short = train(load_config([*QUICK, f"trainer.max_steps={2 * STEPS}"]), tmp_path / "short")
    whole = train(load_config([*QUICK, "trainer.max_epochs=2", "scheduler.step_size=4"]), tmp_path / "whole")
    for name in ("test_accuracy", "test_loss", "train_accuracy", "train_loss", "epoch", "steps"):
        assert short[name] == whole[name]
    assert beyond_quick(whole) == {}


def test_max_time_ends_a_run(tmp_path):
    result = train(load_config([*QUICK, "trainer.max_epochs=100000", "trainer.max_time=00:00:00:01"]), tmp_path)
    assert beyond_quick(result) == {"trainer.max_time": "00:00:00:01"}
    assert result["steps"] > 0
    assert result["epoch"] == (result["steps"] - 1) // STEPS
    assert 0 <= result["test_accuracy"] <= 1


@pytest.mark.parametrize("option", ["limit_train_batches=0.01", "limit_val_batches=0.1"])
def test_a_share_of_less_than_a_batch_names_the_option(option, tmp_path):
    with pytest.raises(ConfigError, match=rf"^trainer\.{option} is not possible here: .* Try at least") as caught:
        train(load_config([*QUICK, f"trainer.{option}"]), tmp_path)
    assert "\n" not in str(caught.value)


class Nothing(IterableDataset):
    def __iter__(self):
        return iter(())


class OwnData(L.LightningDataModule):
    """Eight images for training and testing, but where other loaders are given."""

    def __init__(self, **loaders):
        super().__init__()
        images = TensorDataset(torch.zeros(8, 1, 8, 8), torch.zeros(8, dtype=torch.long))
        whole = DataLoader(images, 4)
        self.loaders = {"train": whole, "val": whole} | loaders

    def train_dataloader(self):
        return self.loaders["train"]

    def val_dataloader(self):
        return self.loaders["val"]


@pytest.mark.parametrize(
    "loader", [DataLoader(TensorDataset(torch.zeros(3, 1)), 4, drop_last=True), DataLoader(Nothing())]
)
@pytest.mark.parametrize(("split", "use"), [("train", "train"), ("val", "test")])
@pytest.mark.parametrize("guess", ["local", "dfa"])
@pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step")  # after an epoch without a step
def test_data_of_one_s_own_without_a_batch_are_told_in_one_line(guess, split, use, loader, tmp_path, monkeypatch):
    monkeypatch.setattr("fglight.training.run.build_data", lambda _: OwnData(**{split: loader}))
    cfg = load_config([*QUICK, f"guess={guess}"])
    with pytest.raises(ConfigError, match=rf"must give a batch to {use} on, and its {split}_dataloader gives none"):
        train(cfg, tmp_path)


def test_a_metric_of_too_few_samples_is_named():
    metrics = BlockMetrics(1, {"r2": R2Score()})
    metrics.update([torch.tensor(0.0)], [torch.zeros(1, 1)], torch.zeros(1, 1))
    with pytest.raises(LabelError, match=r"^metrics r2 are not all possible of 1 sample: "):
        metrics.compute()


def test_options_that_a_run_decides_on_may_be_given_as_they_are(tmp_path):
    same = ["accumulate_grad_batches=1", "enable_checkpointing=true", "num_sanity_val_steps=0", "callbacks=null"]
    plain = ["deterministic=true", "detect_anomaly=true", "inference_mode=false", "benchmark=true"]
    result = train(load_config([*QUICK, *(f"trainer.{option}" for option in same + plain)]), tmp_path)
    assert (beyond_quick(result), result["epoch"]) == ({}, 2)


@pytest.mark.skipif(torch.cuda.is_available(), reason="has a GPU")
def test_devices_that_are_not_there_are_named(tmp_path):
    cfg = load_config(["trainer.accelerator=gpu", "logger.mode=disabled", "trainer.max_epochs=1"])
    with pytest.raises(ConfigError, match=r"trainer\.accelerator=gpu trainer\.devices=1 is not possible here"):
        train(cfg, tmp_path)


# Averages of weights


def averaged(folder, guess, average, epochs=2):
    """Train with a callback that averages weights: the module, its states at the starts of epochs and after steps."""
    perturb = "weight" if guess == "momentum" else "activity"
    model, estimator, _ = build(TINY, guess=guess, perturb=perturb, dtype=torch.float32)
    module, starts, steps = module_of(model, estimator), [], []
    copy = L.pytorch.callbacks.LambdaCallback(
        on_train_epoch_start=lambda *_: starts.append(snapshot(module.model)),
        on_train_batch_end=lambda *_: steps.append(snapshot(module.model)),
    )
    fit(module, folder, epochs, callbacks=[average, copy])
    return module, starts, steps


@pytest.mark.parametrize("guess", ["local", "dfa", "drtp", "momentum"])
def test_a_moving_average_has_all_that_a_guess_keeps(guess, tmp_path):
    module, (start, *_), steps = averaged(tmp_path, guess, EMAWeightAveraging(decay=0.75))
    mean = start | {name: steps[0][name] for name in steps[0].keys() - start.keys()}
    assert mean.keys() == start.keys(), "the first step brought more"
    for state in steps:
        first = state is steps[0]  # which takes the place of what there was
        mean = {name: state[name] if first else 0.75 * old + 0.25 * state[name] for name, old in mean.items()}
    for name, value in snapshot(module.model).items():
        if value.is_floating_point():
            torch.testing.assert_close(value, mean[name])


@pytest.mark.parametrize("guess", ["local", "dfa", "momentum"])
def test_stochastic_weight_averaging_trains_no_step_beyond_its_average(guess, tmp_path):
    average = StochasticWeightAveraging(swa_lrs=0.05, swa_epoch_start=1)
    module, starts, _ = averaged(tmp_path, guess, average)
    assert len(starts) == 3  # the last is for the statistics of batch normalisation
    for name, parameter in module.model.named_parameters():
        torch.testing.assert_close(parameter, torch.stack([start[name] for start in starts[:2]]).mean(0))
    images = Images().images.split(BATCH)
    norm = next(layer for layer in module.model.blocks[0].body.modules() if isinstance(layer, torch.nn.BatchNorm2d))
    inputs = [module.model.blocks[0].body[0](batch) for batch in images]
    torch.testing.assert_close(norm.running_mean, torch.stack([x.mean((0, 2, 3)) for x in inputs]).mean(0))


def test_a_network_may_have_what_its_guess_keeps_before_it_is_copied():
    model, estimator, batch = build(TINY, guess="dfa", perturb="activity")
    estimator.guess.set_up(model.blocks, batch[0])
    before = snapshot(model)
    average = AveragedModel(model)
    estimator.estimate(model, *batch)
    average.update_parameters(model)
    assert snapshot(average.module).keys() == before.keys()
    for block, copy in zip(model.blocks[:-1], average.module.blocks):
        assert torch.equal(copy.feedback, block.feedback)


def test_what_a_guess_keeps_leaves_data_and_generators_as_they_are(tmp_path):
    class Kept(L.Callback):
        def setup(self, trainer, module, stage):
            self.drawn, self.keeps = torch.rand(3), hasattr(module.model.blocks[0], "feedback")

    drawn = []
    for guess in ("local", "dfa"):
        model, estimator, _ = build(TINY, guess=guess, perturb="activity", dtype=torch.float32)
        kept, images = Kept(), Images()
        torch.manual_seed(1)
        trainer = L.Trainer(max_epochs=1, accelerator="cpu", logger=False, callbacks=[kept], default_root_dir=tmp_path)
        trainer.fit(module_of(model, estimator), DataLoader(images, batch_size=BATCH, shuffle=True))
        drawn.append(kept.drawn)
        assert kept.keeps == (guess == "dfa")
    assert torch.equal(*drawn)


# Measures


@pytest.mark.parametrize("settings", [{"guess": "gaussian"}, {"guess": "frozen"}])
def test_measuring_logs_every_block_and_changes_nothing(tmp_path, settings):
    rows, weights = {}, {}
    for measured in (False, True):
        model, estimator, _ = build(TINY, dtype=torch.float32, **settings)
        module = module_of(model, estimator, measure=measured)
        rows[measured] = fit(module, tmp_path / str(measured), epochs=2)
        weights[measured] = module.model.state_dict()
    torch.testing.assert_close(weights[True], weights[False], rtol=0, atol=0)
    last = len(module.model.blocks) - 1
    for name in ("target", "estimate", "alignment", "decrease"):
        assert len(logged(rows[True], f"{name}/block{last - 1}")) == 2 * BATCHES
        assert not logged(rows[True], f"{name}/block{last}")
        assert not logged(rows[False], f"{name}/block0")
    assert all(logged(rows[True], name)[-1] >= 0 for name in ("derivatives/taken", "costs/memory", "costs/forwards"))
