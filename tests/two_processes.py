"""What two processes compute of their parts of a batch, and one of all of it."""

import os
from functools import cache, partial
from itertools import product
from unittest.mock import patch

import lightning as L
import torch
import torch.distributed as dist
import torch.nn.functional as F
from helpers import ALL_PERTURBATIONS, gradients, pairwise, snapshot
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.utils.data import DataLoader

from fglight.autodiff.batch import Batch
from fglight.errors import FglightError
from fglight.estimators import (
    ActivityPerturbation,
    ActivitySpanPerturbation,
    DFAGuess,
    DRTPGuess,
    ExactGuess,
    FiniteDifferences,
    ForwardMode,
    GaussianGuess,
    GlobalTarget,
    GradientEstimator,
    GuidedGuess,
    IntermediateTarget,
    LocalGuess,
    LocalTarget,
    MixingGuess,
    MomentumGuess,
    NextBlockGuess,
    NTKGuess,
    ReverseMode,
    WeightPerSamplePerturbation,
    WeightPerturbation,
)
from fglight.estimators.coefficients import RandomSign
from fglight.estimators.measures import measure
from fglight.estimators.spaces import per_sample
from fglight.models import (
    BCEWithLogitsLoss,
    Block,
    BlockNetwork,
    CrossEntropyLoss,
    MSELoss,
    PredSimAuxiliary,
    SeveralAuxiliaries,
)
from fglight.training.module import ForwardGradientModule

PARTS = (5, 3)
"""Samples of each process: uneven, as a last batch may be."""


WEIGHT = torch.tensor([1.0, 5.0, 20.0], dtype=torch.float64)


def coupled(output, labels):
    """A function that is no mean over samples."""
    return (output - output.mean(0)).square().sum().sqrt() * F.cross_entropy(output, labels.long())


class Focal(CrossEntropyLoss):
    """Overrides what its base class tells of itself."""

    def forward(self, output, labels):
        return super().forward(output, labels).square()


class OwnLoss(nn.Sequential):
    """An auxiliary network that tells what its loss divides by."""

    def loss(self, h, labels):
        logits = self(h)
        return F.cross_entropy(logits, labels, WEIGHT), logits

    def divisor(self, labels):
        return WEIGHT[labels].sum()


LOSSES = {
    "mean": CrossEntropyLoss,
    "class weights": partial(CrossEntropyLoss, weight=WEIGHT),
    "ignored labels": partial(CrossEntropyLoss, weight=WEIGHT, label_smoothing=0.1),
    "sum": partial(CrossEntropyLoss, reduction="sum"),
    "squares": MSELoss,
    "classes": partial(BCEWithLogitsLoss, pos_weight=WEIGHT),
    "torch's": partial(nn.CrossEntropyLoss, weight=WEIGHT),
    "function": lambda: coupled,
    "override": Focal,
    "of auxiliaries": CrossEntropyLoss,
}


ENGINES = {"reverse": ReverseMode, "forward": ForwardMode, "finite": partial(FiniteDifferences, step=1e-3)}


TARGETS = {"global": GlobalTarget, "local": LocalTarget, "intermediate": IntermediateTarget}


GUESSES = {
    "exact": ExactGuess,
    "local": LocalGuess,
    "local span": partial(LocalGuess, combine="span"),
    "local max": partial(LocalGuess, combine="max"),
    "ntk": partial(NTKGuess, directions=2),
    "gaussian": GaussianGuess,
    "gaussian span": partial(GaussianGuess, 2, "span"),
    "guided": GuidedGuess,
    "dfa": DFAGuess,
    "drtp": DRTPGuess,
    "mixing": MixingGuess,
    "next_block": NextBlockGuess,
    "momentum": MomentumGuess,
}


PERTURBATIONS = {
    "activity": ActivityPerturbation,
    "activity_span": ActivitySpanPerturbation,
    "weight": WeightPerturbation,
    "weight_per_sample": WeightPerSamplePerturbation,
}


COEFFICIENTS = (None, "sign", "random_sign", "positive", "one")


def estimator_of(engine, target, guess, space, coefficient):
    perturbation = PERTURBATIONS[space[0]](space[1], coefficient)
    return GradientEstimator(TARGETS[target](), GUESSES[guess](), perturbation, engine=ENGINES[engine]())


def possible(engine, guess, space, coefficient):
    if guess == "guided" and space[0] != "weight":
        return False  # its noise of samples is each process's own
    try:
        estimator_of(engine, "global", guess, space, coefficient)
    except ValueError:
        return False
    return guess != "exact" or (space[1], coefficient) == ("tensor", None)


COMPILED = (
    ("reverse", "global", "local", ("weight", "tensor"), None, "class weights"),
    ("reverse", "local", "gaussian", ("activity", "sample"), None, "mean"),
    ("reverse", "intermediate", "ntk", ("weight_per_sample", "tensor"), "positive", "of auxiliaries"),
    ("forward", "global", "gaussian", ("weight", "network"), None, "ignored labels"),
    ("reverse", "global", "dfa", ("activity", "sample"), None, "classes"),
)


TRAINED = (
    ("reverse", "global", "local", ("activity", "sample"), None, "mean"),
    ("forward", "global", "local", ("activity", "sample"), None, "torch's"),
    ("reverse", "global", "gaussian", ("weight", "tensor"), None, "class weights"),
)


@cache
def chosen():
    """Settings in which any two values that go together do so."""
    return pairwise(
        (engine, target, guess, space, coefficient, loss)
        for engine, guess, space, coefficient in product(ENGINES, GUESSES, ALL_PERTURBATIONS, COEFFICIENTS)
        if possible(engine, guess, space, coefficient)
        for target, loss in product(TARGETS, LOSSES)
        if guess != "drtp" or loss not in ("squares", "classes")
    )


def network(loss="mean"):
    """Blocks that couple no samples, with two auxiliary networks each, and a batch."""
    torch.manual_seed(0)
    bodies = [
        nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.GroupNorm(2, 4), nn.ReLU()),
        nn.Sequential(nn.Conv2d(4, 4, 3, 2), nn.Tanh(), nn.Flatten()),
        nn.Sequential(nn.Linear(16, 6, bias=False), nn.LayerNorm(6), nn.ReLU()),
        nn.Linear(6, 6),
    ]
    kind = OwnLoss if loss == "of auxiliaries" else nn.Sequential
    auxes = [
        SeveralAuxiliaries([kind(nn.Flatten(), *layers, nn.Linear(width, 3)) for layers in ((), (nn.Tanh(),))])
        for width in (100, 16, 6)
    ]
    model = BlockNetwork(map(Block, bodies, [*auxes, kind(nn.Linear(6, 3))]), LOSSES[loss]()).double()
    count = sum(PARTS)
    images, labels = torch.randn(count, 2, 5, 5, dtype=torch.float64), torch.randint(3, (count,))
    if loss == "ignored labels":
        labels[1] = -100
        labels[PARTS[0] :] = -100  # all of the second process
    if loss == "function":
        labels = labels.short()  # not all backends send all types
    return model, images, F.one_hot(labels, 3).double() if loss in ("squares", "classes") else labels


def estimate(case, rows, *, compiled=False):
    """Gradients, cosines, losses and what is measured of some rows of the batch; of a compiled step gradients alone."""
    model, images, labels = network(case[-1])
    estimator = estimator_of(*case[:-1])
    if estimator.draws_by_sample:  # the samples have the directions that they have in the whole batch
        estimator.guess.sample = lambda like: torch.randn(sum(PARTS), *like.shape[1:], dtype=like.dtype)[rows]
    if compiled:
        estimator.compile(lambda graph, inputs: graph)
    # One process takes all of these few samples at once, several take one after the other.
    chunk = 1 if dist.is_initialized() and case[4] == "random_sign" else per_sample.CHUNK
    for _ in range(3 if compiled else 1):  # the third replays the second
        torch.manual_seed(1)
        with patch.object(per_sample, "CHUNK", chunk):
            step = estimator.estimate(model, images[rows], labels[rows], cosine=not compiled)
    if compiled:
        return gradients(model), {"loss": step.loss}
    told = {"cosine": step.cosine, "loss": step.loss}
    told |= {f"local loss {j}": local.loss for j, local in enumerate(step.local) if local is not None}
    measured = measure(model.blocks, images[rows], labels[rows], 0.1, channels_last=False)
    return gradients(model), {name: value for name, value in (told | vars(measured)).items() if value is not None}


def train(case, rows, devices):
    """How three steps of training with clipped gradients move the parameters, and what is logged."""
    model, images, labels = network(case[-1])
    before = snapshot(model)
    module = ForwardGradientModule(
        model, estimator_of(*case[:-1]), optimizer=partial(torch.optim.SGD, lr=1.0), clip_norm=1e-2
    )
    trainer = L.Trainer(
        max_epochs=1,
        accelerator="cpu",
        devices=devices,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=1,
        use_distributed_sampler=False,  # the rows are this process's
    )
    batches = DataLoader([(images[rows], labels[rows])] * 3, batch_size=None)
    trainer.fit(module, batches, batches)
    moved = {name: value - before[name] for name, value in snapshot(model).items()}
    return moved, {name: value for name, value in trainer.logged_metrics.items() if not name.startswith("cosine")}


def numbers(rows, devices, cases):
    """All numbers of some rows of the batch, by what they are of."""
    results = {case: estimate(case, rows) for case in cases}
    results |= {("compiled", *case): estimate(case, rows, compiled=True) for case in COMPILED}
    return results | {("trained", *case): train(case, rows, devices) for case in TRAINED}


def apart(rows):
    """Gradients where every process draws other numbers for its samples; what is of the whole batch is the first's."""
    results = {}
    for guess, coefficient in (("mixing", "random_sign"), ("next_block", "random_sign"), ("dfa", None)):
        model, images, labels = network()
        torch.manual_seed(rows.start)
        estimator = estimator_of("reverse", "global", guess, ("weight", "tensor"), coefficient)
        estimator.estimate(model, images[rows], labels[rows])
        results[guess] = gradients(model)
    return results


def signs(rows):
    """The signs that 50 samples of each process draw, and the generator's state afterwards."""
    torch.manual_seed(0)
    batch = Batch.of(torch.zeros(50, 1), torch.zeros(50))
    return batch.rows(RandomSign(), None, torch.zeros(50)), torch.get_rng_state()


def similarity(rows):
    """The local loss of a network that compares samples, and its gradients."""
    torch.manual_seed(0)
    model = BlockNetwork([Block(nn.Tanh(), PredSimAuxiliary(4, 3)), Block(nn.Flatten(), nn.Linear(64, 3))]).double()
    images, labels = torch.randn(sum(PARTS), 4, 4, 4, dtype=torch.float64), torch.arange(sum(PARTS)) % 3
    step = estimator_of("reverse", "local", "exact", ("weight", None), None).estimate(model, images[rows], labels[rows])
    return step.local[0].loss, gradients(model.blocks[:1])


REFUSED = {}
"""What is refused on several processes, by the words that say so."""


def refused(words):
    def add(attempt):
        REFUSED[attempt.__name__] = attempt, words

    return add


def attempt_with(model, images, labels, perturb="weight", *, compiled=False):
    estimator = estimator_of("reverse", "global", "local", (perturb, None), None)
    if compiled:
        estimator.compile(lambda graph, inputs: graph)
    estimator.estimate(model, images, labels)


@refused(r"on several processes Untold must have a method divisor\(labels\), in the class that has its loss")
def a_loss_that_does_not_tell_what_it_divides_by(images, labels):
    class Untold(OwnLoss):
        def loss(self, h, labels):
            return self(h).square().sum(), self(h)

    model, *_ = network()
    model.blocks[1].aux = Untold(nn.Linear(16, 3)).double()
    attempt_with(model, images, labels)


@refused(r"compile must be false on several processes with coupled, which has no method divisor, since")
def a_function_in_a_compiled_step(images, labels):
    attempt_with(network("function")[0], images, labels, compiled=True)


@refused(r"compile must be false on several processes with the span of a batch since")
def a_span_in_a_compiled_step(images, labels):
    attempt_with(network()[0], images, labels, "activity_span", compiled=True)


@refused(r"coupled, .*, needs one shape of a sample on all processes, got \(3, 4\), \(3, 5\)$")
def samples_of_unlike_shapes(images, labels):
    width = 4 + dist.get_rank()
    model = BlockNetwork([Block(nn.Flatten(2), nn.Identity()), Block(nn.Tanh(), nn.Identity())], coupled)
    attempt_with(model, torch.randn(len(labels), 3, width), torch.randint(3, (len(labels), width)))


@refused(r"body\.1 of block 0 must be a batch norm .* with perturb=weight_per_sample, and is a SyncBatchNorm$")
def synchronised_statistics_of_samples(images, labels):
    model, *_ = network()
    model.blocks[0].body[1] = nn.SyncBatchNorm(4).double()
    attempt_with(model, images, labels, "weight_per_sample")


@refused(r"body of block 1 must be a module without DistributedDataParallel around it: estimates are of all")
def a_wrapped_body(images, labels):
    model, *_ = network()
    model.blocks[1].body = nn.parallel.DistributedDataParallel(model.blocks[1].body)
    attempt_with(model, images, labels)


@refused(r"body\.0\.weight of block 0 must be whole in every process, and is a DTensor's shard$")
def a_sharded_body(images, labels):
    model, *_ = network()
    fully_shard(model.blocks[0].body, mesh=init_device_mesh("cpu", (len(PARTS),)))
    attempt_with(model, images, labels)


def attempts(rows):
    """What is said of each."""
    _, images, labels = network()
    said = {}
    for name, (attempt, _) in REFUSED.items():
        try:
            attempt(images[rows], labels[rows])
        except FglightError as error:
            said[name] = str(error)
    return said


def work(rank, folder, cases):
    torch.set_num_threads(1)
    os.environ["LOCAL_RANK"] = str(rank)  # for Lightning, which then starts no processes
    dist.init_process_group("gloo", f"file://{folder}/group", rank=rank, world_size=len(PARTS))
    start = sum(PARTS[:rank])
    rows = slice(start, start + PARTS[rank])
    found = numbers(rows, len(PARTS), cases), apart(rows), signs(rows), similarity(rows), attempts(rows)
    torch.save(found, folder / f"{rank}.pt")
    dist.destroy_process_group()
