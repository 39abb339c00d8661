"""What is told of a batch or a network that no step can be taken with: the real cause, in one line."""

import pickle
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel
from torch.utils.checkpoint import checkpoint

from fglight.errors import BlockError
from fglight.estimators import (
    ActivityPerturbation,
    FiniteDifferences,
    ForwardMode,
    GaussianGuess,
    GlobalTarget,
    GradientEstimator,
    LocalGuess,
    ReverseMode,
    WeightPerSamplePerturbation,
    WeightPerturbation,
)
from fglight.models import Block, BlockNetwork

ENGINES = (ReverseMode, ForwardMode, FiniteDifferences)


def network(*bodies):
    torch.manual_seed(0)
    bodies = bodies or (nn.Sequential(nn.Linear(4, 4), nn.Tanh()), nn.Linear(4, 4))
    return BlockNetwork([Block(body, nn.Linear(4, 3)) for body in bodies]).double()


def batch():
    return torch.randn(6, 4, dtype=torch.float64), torch.arange(6) % 3


def local(engine=ReverseMode, perturbation=WeightPerturbation, **settings):
    return GradientEstimator(GlobalTarget(), LocalGuess(), perturbation(), engine=engine(), **settings)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("body", [nn.Identity(), nn.Dropout(0.0), nn.Flatten()])
def test_bodies_that_hand_their_input_on_can_be_checked(body, engine):
    model, (images, labels) = network(nn.Linear(4, 4), body), batch()
    estimator = local(engine)
    assert [layer.path for layer in estimator.check(model, images)] == ["fast"]
    estimator.estimate(model, images, labels)
    with pytest.raises(Exception, match=r"(?i)target|label|class|dtype"):
        estimator.estimate(model, images, labels + 7)


class Tuple(nn.Module):
    def forward(self, x):
        return (torch.tanh(x),)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_body_that_gives_a_tuple_is_told(engine):
    model, (images, labels) = network(nn.Sequential(nn.Linear(4, 4), Tuple()), nn.Linear(4, 4)), batch()
    with pytest.raises(BlockError, match="must give one tensor, and a Sequential gives a tuple"):
        local(engine).estimate(model, images, labels)
    (told,) = local(engine).check(model, images)
    assert told.path == "refused"
    assert "must give one tensor" in told.why


@pytest.mark.parametrize("wrap", [nn.DataParallel, AveragedModel])
def test_a_wrapped_network_is_told_with_what_to_pass(wrap):
    with pytest.raises(BlockError, match=rf"got a {wrap.__name__}: pass what it wraps, {wrap.__name__}\.module"):
        local().estimate(wrap(network()), *batch())


@pytest.mark.parametrize("model", [nn.Sequential(nn.Linear(4, 3)), nn.Linear(4, 3), [nn.Linear(4, 3)], []])
def test_what_is_no_block_network_is_told_with_what_cuts_it(model):
    with pytest.raises(BlockError, match=r"must be a BlockNetwork or a sequence of Blocks, got .*split\(network"):
        local().estimate(model, *batch())


@pytest.mark.parametrize("engine", ENGINES)
def test_inference_mode_is_told(engine):
    model = network()
    with torch.inference_mode(), pytest.raises(BlockError, match="inference_mode"):
        local(engine).estimate(model, *batch())
    with torch.inference_mode():
        model = network()
    with pytest.raises(BlockError, match="inference_mode"):
        local(engine).estimate(model, *batch())


@pytest.mark.parametrize(("name", "given"), [("images", {"pixels": 1}), ("labels", {"class": 1}), ("images", [1, 2])])
def test_batches_that_are_no_tensors_are_told(name, given):
    images, labels = batch()
    pair = {"images": images, "labels": labels} | {name: given}
    with pytest.raises(BlockError, match=f"{name} must be a tensor, got a {type(given).__name__}"):
        local().estimate(network(), pair["images"], pair["labels"])


@pytest.mark.parametrize("guess", [LocalGuess, GaussianGuess])
@pytest.mark.parametrize("perturbation", [WeightPerturbation, ActivityPerturbation, WeightPerSamplePerturbation])
@pytest.mark.parametrize("engine", [ReverseMode, ForwardMode])
def test_an_auxiliary_network_may_work_in_place(engine, perturbation, guess):
    model = network()
    model.blocks[0].aux = nn.Sequential(nn.ReLU(), nn.Linear(4, 3)).double()
    probe = guess is GaussianGuess
    estimator = GradientEstimator(GlobalTarget(), guess(), perturbation(), engine=engine(), probe=probe)
    found = []
    for inplace in (False, True):
        model.blocks[0].aux[0].inplace = inplace
        torch.manual_seed(0)
        estimator.estimate(model, *batch())
        found.append([p.grad for p in model.parameters() if p.grad is not None])
    assert all(map(torch.equal, *found))


@pytest.mark.parametrize("engine", ENGINES)
def test_layers_without_a_shape_yet_are_told(engine):
    model, (images, labels) = network(nn.LazyLinear(4), nn.Linear(4, 4)), batch()
    with pytest.raises(BlockError, match=r"body\.weight of block 0 must have a shape"):
        local(engine).estimate(model, images, labels)
    assert [layer.path for layer in local(engine).check(model, images)] == ["refused"]
    model(images)
    local(engine).estimate(model, images, labels)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_copy_of_an_estimator_takes_the_same_steps_and_no_network_along(engine):
    model, (images, labels) = network(), batch()
    estimator = local(engine)
    before = len(pickle.dumps(estimator))
    estimator.estimate(model, images, labels)
    expected = [p.grad for p in model.parameters()]
    assert len(pickle.dumps(estimator)) == before
    deepcopy(estimator).estimate(model, images, labels)
    assert all(a is b or torch.equal(a, b) for a, b in zip(expected, (p.grad for p in model.parameters())))


@pytest.mark.parametrize("engine", ENGINES)
def test_two_threads_take_steps_at_once(engine):
    models, (images, labels) = [network(), network()], batch()

    def steps(model):
        for _ in range(5):
            local(engine).estimate(model, images, labels)

    with ThreadPoolExecutor(2) as threads:
        list(threads.map(steps, models))  # which raises what a thread did
    for a, b in zip(*(model.parameters() for model in models)):
        assert a.grad is b.grad or torch.equal(a.grad, b.grad)


class Part(nn.Module):
    """An auxiliary network, or a head, with a use of its layer of its own."""

    def __init__(self, use):
        super().__init__()
        self.layer, self.use = nn.Linear(4, 3), use

    def forward(self, h):
        return self.use(self.layer, h)


ODD_PARTS = {
    "must give one tensor, and a Part gives a tuple": lambda layer, h: (layer(h),),
    "a Part .*its output no graph": lambda layer, h: layer(h).detach(),
    "a Part .*needs use_reentrant=False": lambda layer, h: checkpoint(layer, h, use_reentrant=True),
}


@pytest.mark.filterwarnings("ignore:None of the inputs")
@pytest.mark.parametrize("said", ODD_PARTS)
@pytest.mark.parametrize("block", [0, -1])
@pytest.mark.parametrize("engine", ENGINES)
def test_a_part_without_gradient_is_named(engine, block, said):
    model, (images, labels) = network(), batch()
    model.blocks[block].aux = Part(ODD_PARTS[said]).double()
    where = "head" if block else "auxiliary network"
    with pytest.raises(BlockError, match=f"the {where}.*{said}|and the head, {said}"):
        local(engine).estimate(model, images, labels)


def test_a_head_that_works_in_place_is_named():
    model, (images, labels) = network(nn.Linear(4, 4), nn.Identity()), batch()
    model.blocks[1].aux = nn.Sequential(nn.ReLU(inplace=True), nn.Linear(4, 3)).double()
    with pytest.raises(BlockError, match=r"the head, a Sequential .*in-place"):
        local().estimate(model, images, labels)
