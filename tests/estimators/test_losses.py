"""Losses other than cross-entropy: estimates by their definition, sample by sample, and what does not go together."""

from copy import deepcopy
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from definition import EPS, Definition, project
from helpers import ALL_PERTURBATIONS, assert_all_close, assert_close, body_gradients, gradients
from torch import nn

from fglight import load_config
from fglight.build import build_loss
from fglight.errors import ConfigError, LabelError
from fglight.estimators import (
    ActivityPerturbation,
    ActivitySpanPerturbation,
    ExactGuess,
    ForwardMode,
    GlobalTarget,
    GradientEstimator,
    IntermediateTarget,
    LocalGuess,
    LocalTarget,
    ReverseMode,
    WeightPerSamplePerturbation,
    WeightPerturbation,
)
from fglight.models import BCEWithLogitsLoss, Block, BlockNetwork, CrossEntropyLoss, MSELoss, PredSimAuxiliary

BATCH = 5
TARGETS = {"global": GlobalTarget, "local": LocalTarget, "intermediate": IntermediateTarget}
PERTURBATIONS = {
    "activity": ActivityPerturbation,
    "weight": WeightPerturbation,
    "weight_per_sample": WeightPerSamplePerturbation,
    "activity_span": ActivitySpanPerturbation,
}


def pinball(output, labels):
    """Three quantiles of one number: labels of another shape than outputs."""
    error = labels - output
    share = torch.tensor([0.1, 0.5, 0.9], dtype=output.dtype)
    return torch.maximum(share * error, (share - 1) * error).mean()


LOSSES = {
    "mse": (MSELoss(), 2, lambda: torch.randn(BATCH, 2, dtype=torch.float64)),
    "multi_label": (BCEWithLogitsLoss(), 4, lambda: torch.randint(2, (BATCH, 4))),
    "pinball": (pinball, 3, lambda: torch.randn(BATCH, 1, dtype=torch.float64)),
    "huber": (nn.HuberLoss(delta=0.3), 2, lambda: torch.randn(BATCH, 2, dtype=torch.float64)),
}


def problem(name):
    """Blocks with a loss that couple no samples, and a batch."""
    loss, outputs, draw = LOSSES[name]
    torch.manual_seed(0)
    bodies = [
        nn.Sequential(nn.Linear(6, 7), nn.Tanh()),
        nn.Sequential(nn.Linear(7, 5), nn.LayerNorm(5), nn.ReLU()),
        nn.Sequential(nn.Linear(5, 4), nn.Tanh()),
    ]
    blocks = [Block(body, nn.Linear(width, outputs)) for body, width in zip(bodies, (7, 5, 4))]
    return BlockNetwork(blocks, loss=loss).double(), torch.randn(BATCH, 6, dtype=torch.float64), draw()


def by_sample(model, images, labels, loss, j):
    """For each sample alone: its part of L and of L_j, differentiated to h_j and to every parameter of block j."""
    found = []
    for i in range(BATCH):
        hidden = images[i : i + 1]
        for block in model.blocks[: j + 1]:
            hidden = block.body(hidden)
        after = hidden
        for block in model.blocks[j + 1 :]:
            after = block.body(after)
        whole = loss(model.blocks[-1].aux(after), labels[i : i + 1]) / BATCH
        local = loss(model.blocks[j].aux(hidden), labels[i : i + 1]) / BATCH
        to = [hidden, *model.blocks[j].body.parameters()]
        found.append([torch.autograd.grad(value, to, retain_graph=True) for value in (whole, local)])
    return found


@pytest.mark.parametrize("engine", [ReverseMode, ForwardMode])
@pytest.mark.parametrize("name", LOSSES)
def test_estimates_are_those_of_a_loop_over_samples(name, engine):
    model, images, labels = problem(name)
    loss = LOSSES[name][0]
    for perturb in ("activity", "weight", "weight_per_sample"):
        expected = []
        for j in range(2):
            samples = by_sample(model, images, labels, loss, j)
            if perturb == "weight":
                targets, guesses = (map(sum, zip(*grads)) for grads in zip(*samples))
                expected.append([project(t, g) for t, g in zip(targets, guesses)][1:])
            elif perturb == "weight_per_sample":
                projected = ([project(t, g) for t, g in zip(*sample)] for sample in samples)
                expected.append([sum(parts) for parts in zip(*projected)][1:])
            else:
                # The coefficient of each sample's cotangent multiplies its gradients, too.
                factors = [(t[0] * g[0]).sum() / ((g[0] * g[0]).sum() + EPS) for t, g in samples]
                scaled = ([c * part for part in g] for c, (_, g) in zip(factors, samples))
                expected.append([sum(parts) for parts in zip(*scaled)][1:])
        estimator = GradientEstimator(GlobalTarget(), LocalGuess(), PERTURBATIONS[perturb](), engine=engine())
        step = estimator.estimate(model, images, labels)
        assert_all_close(body_gradients(model), expected)
        each = [loss(model(images[i : i + 1]), labels[i : i + 1]) for i in range(BATCH)]
        assert_close(step.loss, torch.stack(each).mean())


@pytest.mark.parametrize(("perturb", "granularity"), ALL_PERTURBATIONS)
@pytest.mark.parametrize("target", TARGETS)
def test_every_perturbation_and_target(target, perturb, granularity):
    model, images, labels = problem("mse")
    settings = {"granularity": granularity} if perturb in ("activity", "weight") else {}
    estimator = GradientEstimator(TARGETS[target](), LocalGuess(), PERTURBATIONS[perturb](**settings))
    step = estimator.estimate(model, images, labels, cosine=True)
    definition = Definition(model, images, labels)
    assert_all_close(body_gradients(model), definition.estimates(target, perturb, granularity), 1e-8)
    if granularity in ("sample", "tensor") and perturb != "activity_span":
        assert_close(step.cosine, definition.cosines(target, perturb))
    for j, block in enumerate(model.blocks):  # auxiliaries and head: their own loss's exact gradients
        expected = torch.autograd.grad(
            definition.losses[j], [*definition.blocks[j].aux.parameters()], retain_graph=True
        )
        assert_all_close([[p.grad for p in block.aux.parameters()]], [expected])


def test_exact_is_backpropagation_of_the_loss():
    model, images, labels = problem("multi_label")
    plain = deepcopy(model)
    GradientEstimator(GlobalTarget(), ExactGuess(), WeightPerturbation()).estimate(model, images, labels)
    F.binary_cross_entropy_with_logits(plain(images), labels.double()).backward()
    for name, gradient in gradients(plain.blocks).items():
        if gradient is not None:
            assert_close(gradients(model.blocks)[name], gradient, name=name)


def test_a_compiled_step_follows_a_change_of_the_loss():
    model, images, labels = problem("mse")
    estimator = GradientEstimator(GlobalTarget(), LocalGuess(), WeightPerturbation())
    recorded = deepcopy(estimator)
    recorded.compile(lambda graph, inputs: graph)
    for loss in (MSELoss(), nn.L1Loss(), F.huber_loss):
        for block in model.blocks:
            block.use_loss(loss)
        for _ in range(3):  # the third replays the second
            recorded.estimate(model, images, labels)
        found = gradients(model.blocks)
        estimator.estimate(model, images, labels)
        for name, gradient in gradients(model.blocks).items():
            assert_close(found[name], gradient, name=name)


def test_a_block_s_own_loss_goes_before_the_network_s_and_an_auxiliary_s_before_both():
    class Own(nn.Linear):
        def loss(self, h, labels):
            return self(h).square().mean(), self(h)

    h, labels = torch.randn(4, 3), torch.randn(4, 2)
    own = Block(nn.Identity(), nn.Linear(3, 2), loss=nn.L1Loss())
    auxiliary = Block(nn.Identity(), Own(3, 2), loss=nn.L1Loss())
    rest = Block(nn.Identity(), nn.Linear(3, 2))
    BlockNetwork([own, auxiliary, rest], loss=F.mse_loss)
    assert own.loss(h, labels)[0] == F.l1_loss(own.aux(h), labels)
    assert auxiliary.loss(h, labels)[0] == auxiliary.aux(h).square().mean()
    assert rest.loss(h, labels)[0] == F.mse_loss(rest.aux(h), labels)
    assert Block(nn.Identity(), rest.aux).loss(h, torch.tensor([0, 1, 1, 0]))[0] == F.cross_entropy(
        rest.aux(h), torch.tensor([0, 1, 1, 0])
    )


def test_weights_of_a_loss_move_with_the_network():
    block = Block(nn.Identity(), nn.Linear(3, 2), loss=CrossEntropyLoss(weight=torch.tensor([1.0, 3.0]))).double()
    h, labels = torch.randn(4, 3, dtype=torch.float64), torch.tensor([0, 1, 1, 0])
    weight = torch.tensor([1.0, 3.0], dtype=torch.float64)
    assert_close(block.loss(h, labels)[0], F.cross_entropy(block.aux(h), labels, weight))


INDICES, VALUES = torch.tensor([0, 1, 0]), torch.rand(3, 1)


@pytest.mark.parametrize(
    ("loss", "outputs", "labels", "words"),
    [
        (
            CrossEntropyLoss(),
            1,
            VALUES,
            r"must be class indices .*, got labels \(3, 1\) of float32 with outputs \(3, 1\)",
        ),
        (CrossEntropyLoss(), 4, torch.rand(3, 4), "must be class indices .*, got labels .* of float32"),
        (CrossEntropyLoss(), 1, INDICES * 0, "outputs of two classes or more"),
        (CrossEntropyLoss(), 3, INDICES.view(3, 1), r"got labels \(3, 1\) of int64"),
        (CrossEntropyLoss(), 3, torch.tensor([0, 7, 1]), "labels must be from 0 to 2, one of 3 classes, got 0 to 7"),
        (CrossEntropyLoss(), 3, torch.tensor([0, -1, 1]), "labels must be from 0 to 2, one of 3 classes, got -1 to 1"),
        (
            MSELoss(),
            10,
            INDICES,
            r"labels must have the outputs' shape .* got labels \(3,\) of int64 with outputs \(3, 10\)",
        ),
        (MSELoss(), 3, INDICES, "for a mean squared error"),  # torch would multiply them out
        (MSELoss(), 1, VALUES[:, 0], r"labels \(3,\) of float32 with outputs \(3, 1\)"),
        (BCEWithLogitsLoss(), 3, INDICES, "for a binary cross-entropy, got labels"),
        (nn.MSELoss(reduction="none"), 1, VALUES, r"the loss must be one number, .* got \(3, 1\)"),
    ],
)
def test_what_does_not_go_together_is_one_line(loss, outputs, labels, words):
    model = BlockNetwork([Block(nn.Linear(2, 2), nn.Linear(2, outputs)) for _ in range(2)], loss=loss)
    estimator = GradientEstimator(GlobalTarget(), LocalGuess(), WeightPerturbation())
    with pytest.raises(LabelError, match=words) as error:
        estimator.estimate(model, torch.rand(3, 2), labels)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("dtype", [torch.int32, torch.uint8, torch.int16])
def test_class_indices_may_have_any_integer_type(dtype):
    labels = torch.tensor([0, 2, 1])
    output = torch.randn(3, 3)
    assert torch.equal(CrossEntropyLoss()(output, labels.to(dtype)), F.cross_entropy(output, labels))


def test_similarity_matching_of_values_is_refused():
    with pytest.raises(LabelError, match="must be class indices"):
        PredSimAuxiliary(4, 2).loss(torch.rand(3, 4, 4, 4), torch.rand(3, 2))


def test_a_loss_with_parameters_is_refused():
    with pytest.raises(ValueError, match=r"a loss must have no parameters, .* got PReLU"):
        BlockNetwork([Block(nn.Identity(), nn.Identity())], loss=nn.PReLU())


@pytest.mark.parametrize(
    ("overrides", "loss"),
    [
        (["loss=mse"], F.mse_loss),
        (["loss=multi_label"], F.binary_cross_entropy_with_logits),
        (["loss=any", "loss._target_=torch.nn.HuberLoss", "loss.delta=0.5"], partial(F.huber_loss, delta=0.5)),
        (
            ["loss=any", "loss._target_=torch.nn.functional.smooth_l1_loss", "loss.beta=2"],
            partial(F.smooth_l1_loss, beta=2),
        ),
    ],
)
def test_losses_of_a_configuration(overrides, loss):
    output, labels = torch.randn(4, 3), torch.randint(2, (4, 3)).float()
    assert build_loss(load_config(overrides))(output, labels) == loss(output, labels)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (
            ["loss.smoothing=0.1"],
            "loss.smoothing=0.1 is not possible, nothing reads it: did you mean loss.label_smoothing",
        ),
        (["loss=any"], "loss._target_"),
        (["loss.metrics=null"], "loss.metrics must be metrics by name"),
        (["loss.metrics.accuracy.top_k=2"], "loss.metrics.accuracy.top_k=2 is not possible, nothing reads it"),
    ],
)
def test_settings_of_losses_that_mean_nothing(overrides, words):
    with pytest.raises(ConfigError, match=words):
        load_config(overrides)


def test_a_loss_that_cannot_be_made():
    cfg = load_config(["loss=any", "loss._target_=torch.nn.NLLLoss", "loss.weight=3"])
    with pytest.raises(ConfigError, match=r"loss=torch\.nn\.NLLLoss is not possible with its settings"):
        build_loss(cfg)
