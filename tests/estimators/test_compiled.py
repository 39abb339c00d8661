"""A compiled step is the same step."""

from copy import deepcopy

import pytest
import torch
import torch.distributed as dist
from helpers import (
    ALL_PERTURBATIONS,
    TARGETS,
    assert_close,
    assert_same_gradients,
    build,
    compose,
    estimator_of,
    every_pair,
    gradients,
    snapshot,
    tapped_blocks,
)
from torch import nn

from fglight.config import check_config
from fglight.errors import BlockError, ConfigError
from fglight.estimators import GaussianGuess, GlobalTarget, GradientEstimator, LocalGuess, WeightPerturbation
from fglight.estimators.engines.compiled import cudagraphs
from fglight.models import Block, SeveralAuxiliaries, reset_parameters

ONE_KIND = [(5, True), (5, True), (5, True)]
"""Size of the batch, and whether the cosine is wanted: seen, compiled, replayed. Compiling is what takes time."""

KINDS = [(5, False), (5, False), (5, False), (5, True), (4, False), (5, False), *ONE_KIND]
"""Two of four kinds come twice in a row."""

draws_in_order = pytest.mark.skipif(
    torch.__version__ < "2.12", reason="torch 2.11's Inductor may draw random numbers in another order"
)


def tapped(aux="cnn", count=4):
    """The first blocks and a batch, without the parameters that fit one size of batch only."""
    blocks, batch = tapped_blocks()
    del blocks[count:]
    if count < 4:
        del blocks[-1].body[-1]
    for block in blocks[:-1]:
        del block.body[-1]
        if aux == "several":
            block.aux = SeveralAuxiliaries([block.aux, deepcopy(block.aux)])
            reset_parameters(block.aux)
    return blocks, batch


def operations(graph, inputs):
    """What the compiler is given, without compiling it."""
    return graph


def trained(compiler, settings=None, kinds=ONE_KIND, count=2, **choices):
    """Blocks, steps and the generator's state after training."""
    blocks, (images, labels) = tapped(choices.get("aux"), count)
    estimator = estimator_of(settings, **choices)
    if compiler:
        estimator.compile(compiler)
    optimizer = torch.optim.SGD(estimator.trained_parameters(blocks), lr=0.01)
    torch.manual_seed(1)
    steps = []
    for size, cosine in kinds:
        steps.append(estimator.estimate(blocks, images[:size], labels[:size], cosine=cosine))
        optimizer.step()
    return blocks, steps, torch.get_rng_state()


def assert_same_training(compiler=operations, **choices):
    (blocks, steps, state), (others, other_steps, other_state) = (trained(c, **choices) for c in (None, compiler))
    assert_same_gradients(gradients(nn.ModuleList(others)), gradients(nn.ModuleList(blocks)))
    for block, other in zip(blocks, others):
        for (name, value), (_, there) in zip(block.state_dict().items(), other.state_dict().items()):
            assert_close(there.double(), value.double(), name=name)
    for here, there in zip(steps, other_steps):
        assert_close(there.loss, here.loss)
        assert_close(there.logits, here.logits)
        assert (there.cosine is None) == (here.cosine is None)
        if here.cosine is not None:
            assert_close(there.cosine, here.cosine)
        assert [local is None for local in there.local] == [local is None for local in here.local]
        for mine, compiled in zip(here.local, there.local):
            if mine is not None:
                assert_close(compiled.loss, mine.loss)
                assert_close(compiled.logits, mine.logits)
    assert torch.equal(state, other_state)


@every_pair(engine=["reverse", "forward"], guess=["local", "ntk", "gaussian"], way=ALL_PERTURBATIONS)
def test_every_perturbation(engine, guess, way):
    perturb, granularity = way
    settings = {"perturb.granularity": granularity}
    assert_same_training(settings=settings, engine=engine, guess=guess, perturb=perturb)


@pytest.mark.parametrize("engine", ["reverse", "forward"])
def test_directions_of_every_sample_are_drawn_once(engine, monkeypatch):
    """However few samples may be taken at a time: nothing could draw them again in a record."""
    choices = {"engine": engine, "guess": "gaussian", "perturb": "weight_per_sample"}
    (blocks, *_) = trained(None, **choices)
    monkeypatch.setattr("fglight.estimators.spaces.per_sample.CHUNK", 1)
    (others, *_) = trained(operations, **choices)
    assert_same_gradients(gradients(nn.ModuleList(others)), gradients(nn.ModuleList(blocks)))


@pytest.mark.parametrize("engine", ["reverse", "forward"])
def test_several_blocks_and_several_kinds_of_steps(engine):
    settings = {"perturb.granularity": "network"}
    assert_same_training(settings=settings, engine=engine, target="intermediate", guess="ntk", kinds=KINDS, count=4)


@pytest.mark.parametrize(
    ("engine", "perturb", "coefficient"),
    [
        ("reverse", "activity", "positive"),
        ("reverse", "weight", "random_sign"),
        ("reverse", "weight_per_sample", "positive"),
        ("forward", "activity", "sign"),
        ("forward", "weight", "one"),
        ("forward", "weight_per_sample", "random_sign"),
    ],
)
def test_coefficients(engine, perturb, coefficient):
    assert_same_training(settings={"perturb.coefficient": coefficient}, engine=engine, perturb=perturb)


@pytest.mark.parametrize(
    ("engine", "perturb", "guess", "settings"),
    [
        ("reverse", "weight", "low_rank", {"guess.directions": 2, "guess.combine": "max"}),
        ("reverse", "weight_per_sample", "guided", {}),
        ("forward", "weight", "guided", {}),
        ("reverse", "activity", "local", {"guess.combine": "span"}),
        ("reverse", "weight_per_sample", "local", {"guess.combine": "max"}),
    ],
)
def test_several_directions_and_noise(engine, perturb, guess, settings):
    assert_same_training(engine=engine, perturb=perturb, guess=guess, settings=settings, aux="several")


@pytest.mark.parametrize("guess", ["exact", "local", "fixed_ntk", "rademacher"])
@pytest.mark.parametrize("target", TARGETS)
def test_every_target(target, guess):
    assert_same_training(target=target, guess=guess, count=3)


@pytest.mark.parametrize(
    ("engine", "guess", "perturb"),
    [
        ("forward", "dfa", "weight"),
        ("reverse", "drtp", "activity"),
        ("reverse", "next_block", "activity"),
        ("forward", "mixing", "weight"),
        ("reverse", "momentum", "weight"),
    ],
)
def test_published_guesses(engine, guess, perturb):
    assert_same_training(guess=guess, perturb=perturb, engine=engine)


def test_only_what_comes_twice_in_a_row_is_compiled():
    compiled = []
    trained(lambda graph, inputs: compiled.append(len(inputs[0])) or graph, kinds=KINDS)
    assert compiled == [5, 5]


class Exchange(nn.Module):
    """Adds up what all processes have, in place, as synchronised batch norm does."""

    def forward(self, x):
        total = x.clone()
        dist.all_reduce(total)
        return x + 0 * total.detach()


def test_operations_between_processes_in_place_are_refused():
    blocks, batch = tapped()
    blocks[0].body.append(Exchange())
    estimator = estimator_of()
    estimator.compile(operations)
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        estimator.estimate(blocks, *batch)
        with pytest.raises(ValueError, match="compile=true"):
            estimator.estimate(blocks, *batch)
    finally:
        dist.destroy_process_group()


@pytest.mark.parametrize(
    "settings",
    [{"trainer.sync_batchnorm": True}, {"trainer.devices": 2, "perturb.granularity": "sample"}],
)
def test_what_does_not_replay_on_several_devices_is_refused(settings):
    with pytest.raises(ConfigError, match="compile"):
        check_config(compose({"compile": True, **settings}, perturb="activity_span"))


CHANGES = {
    "a frozen parameter": lambda blocks: blocks[0].body[0].weight.requires_grad_(False),
    "a replaced parameter": lambda blocks: setattr(blocks[0].body[0], "weight", nn.Parameter(torch.eye(4))),
    "all parameters": lambda blocks: [
        block.load_state_dict({key: 0.5 * value for key, value in block.state_dict().items()}, assign=True)
        for block in blocks
    ],
    "other values": lambda blocks: [p.data.mul_(0.5) for block in blocks for p in block.parameters()],
    "a replaced module": lambda blocks: blocks[0].body.__setitem__(2, nn.Sigmoid()),
    "one more module": lambda blocks: blocks[0].body.append(nn.Sigmoid()),
    "a setting of a module": lambda blocks: setattr(blocks[0].body[1], "eps", 0.1),
    "a hook": lambda blocks: blocks[0].body[1].register_forward_hook(lambda module, inputs, output: 2 * output),
    "another auxiliary network": lambda blocks: setattr(blocks[0], "aux", nn.Linear(4, 3)),
    "a body frozen and freed again": lambda blocks: blocks[0].body.requires_grad_(False).requires_grad_(True),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_record_does_not_outlive_its_network(change):
    """Steps after the change are those of an estimator that has not seen the network before."""
    results = []
    batch = torch.linspace(-1, 1, 20, dtype=torch.float64).view(5, 4), torch.arange(5) % 3
    for is_compiled in (False, True):
        torch.manual_seed(0)
        body = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4), nn.Tanh())
        blocks = [Block(body, nn.Linear(4, 3)).double(), Block(nn.Linear(4, 4), nn.Linear(4, 3)).double()]
        estimator = GradientEstimator(GlobalTarget(), LocalGuess(), WeightPerturbation())
        if is_compiled:
            estimator.compile(operations)
        for _ in range(3):
            estimator.estimate(blocks, *batch)
        CHANGES[change](blocks)
        for block in blocks:
            block.double()
        for _ in range(3):
            step = estimator.estimate(blocks, *batch)
            results.append((gradients(blocks), step.loss))
    for (expected, loss), (found, compiled_loss) in zip(results[:3], results[3:]):
        assert_same_gradients(found, expected)
        assert_close(compiled_loss, loss)


def test_a_network_that_changes_in_every_step_is_never_compiled():
    class Counter(nn.Module):
        calls = 0

        def forward(self, x):
            self.calls += 1
            return x * self.calls

    compiled = []
    blocks, batch = tapped()
    blocks[0].body.append(Counter())
    estimator = estimator_of()
    estimator.compile(lambda graph, inputs: compiled.append(graph) or graph)
    losses = [estimator.estimate(blocks, *batch).loss for _ in range(4)]
    assert not compiled
    assert len(set(losses)) == 4


def test_tensors_of_a_class_of_their_own_are_refused():
    class Own(torch.Tensor):
        pass

    class Wrap(nn.Module):
        def forward(self, x):
            return torch.tanh(x.as_subclass(Own)).as_subclass(torch.Tensor)

    blocks, batch = tapped()
    blocks[0].body.append(Wrap())
    estimator = estimator_of()
    estimator.compile(operations)
    estimator.estimate(blocks, *batch)
    with pytest.raises(BlockError, match="compile=false"):
        estimator.estimate(blocks, *batch)


def test_numbers_read_from_tensors_are_refused():
    blocks, batch = tapped()
    blocks[0].body.append(nn.BatchNorm2d(4, momentum=None).double())
    estimator = estimator_of()
    estimator.compile(operations)
    estimator.estimate(blocks, *batch)
    with pytest.raises(ValueError, match=r"compile=true .*momentum=None .*use compile=false"):
        estimator.estimate(blocks, *batch)


@pytest.mark.slow
@pytest.mark.parametrize("guess", [LocalGuess, pytest.param(GaussianGuess, marks=draws_in_order)])
def test_inductor(guess):
    """On a network as small as can be, for the time that it takes to compile."""
    results = []
    for is_compiled in (False, True):
        torch.manual_seed(0)
        blocks = [Block(nn.Linear(3, 4), nn.Linear(4, 2)), Block(nn.Linear(4, 4), nn.Linear(4, 2))]
        estimator = GradientEstimator(GlobalTarget(), guess(), WeightPerturbation())
        if is_compiled:
            estimator.compile()
        images, labels = torch.randn(4, 3), torch.randint(2, (4,))
        for _ in range(3):
            step = estimator.estimate(blocks, images, labels)
        results.append((step.loss, *[p.grad for p in estimator.trained_parameters(blocks)]))
    for here, there in zip(*results):
        assert_close(there, here, 1e-5)


def test_cuda_graphs_are_refused_elsewhere():
    blocks, batch = tapped()
    estimator = estimator_of({"compile": "cudagraphs"})
    estimator.estimate(blocks, *batch)
    with pytest.raises(BlockError, match="compile=cudagraphs needs a CUDA device, not cpu"):
        estimator.estimate(blocks, *batch)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize(("perturb", "granularity"), ALL_PERTURBATIONS)
@pytest.mark.parametrize("guess", ["local", "ntk", "gaussian"])
@pytest.mark.parametrize("engine", ["reverse", "forward"])
def test_cuda_graphs_take_the_same_steps(engine, guess, perturb, granularity):
    """From the same random numbers, over batches that change, with buffers and weights that move."""
    trained = []
    for compiler in (None, cudagraphs):
        torch.manual_seed(0)
        model, estimator, (images, labels) = build(
            {"perturb.granularity": granularity}, guess=guess, perturb=perturb, engine=engine
        )
        model, images, labels = model.cuda(), images.cuda(), labels.cuda()
        if compiler:
            estimator.compile(compiler)
        optimizer = torch.optim.SGD(estimator.trained_parameters(model), lr=0.01)
        for step in range(6):
            torch.manual_seed(step)
            estimator.estimate(model, images * (1 + step), labels.roll(step), cosine=step == 3)
            optimizer.step()
        trained.append(snapshot(model))
    for name, value in trained[0].items():
        assert_close(trained[1][name].double(), value.double(), name=name)
