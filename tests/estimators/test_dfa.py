"""Feedback of the error or of the label through fixed random matrices."""

import pytest
import torch
from helpers import assert_close, assert_same_gradients, estimator_of, gradients, snapshot, tapped_blocks
from torch import nn

from fglight.errors import BlockError
from fglight.estimators import ActivityPerturbation, DFAGuess, DRTPGuess, GlobalTarget, GradientEstimator
from fglight.models import Block, BlockNetwork

FEEDBACK = ("dfa", "drtp")


def network(batch=12, classes=4):
    """Two blocks that end in a tap, and one more: the estimate in the space of h_j is the tap's gradient."""
    blocks, _ = tapped_blocks(batch, classes)
    return BlockNetwork(blocks), (torch.randn(batch, 3, 6, 6).double(), torch.arange(batch) % classes)


def fed_back(guess):
    """g_0 itself, ``(batch, features)``, and the labels: with a coefficient of one it is the estimate."""
    model, (images, labels) = network()
    estimator_of({"perturb.coefficient": "one"}, guess=guess, perturb="activity").estimate(model, images, labels)
    return model.blocks[0].body[-1].shift.grad.flatten(1), labels


def test_the_directions_of_dfa_have_the_rank_of_the_errors():
    """Errors of a softmax sum to zero over the classes."""
    g, _ = fed_back("dfa")
    assert torch.linalg.matrix_rank(g) == 3
    assert torch.linalg.matrix_rank(g[:2]) == 2


def test_the_directions_of_drtp_are_those_of_the_classes():
    g, labels = fed_back("drtp")
    assert torch.linalg.matrix_rank(g) == 4
    same = (g.unsqueeze(0) == g.unsqueeze(1)).all(2)
    assert torch.equal(same, labels.unsqueeze(0) == labels.unsqueeze(1))


def test_dfa_with_a_coefficient_of_one_is_feedback_alignment_as_published():
    """A network of one linear layer a block, against the update rule written out."""
    torch.manual_seed(0)
    bodies = [nn.Sequential(nn.Linear(5, 7), nn.Tanh()), nn.Sequential(nn.Linear(7, 6), nn.Tanh()), nn.Identity()]
    model = BlockNetwork(Block(body, nn.Linear(6, 3)) for body in bodies).double()
    images, labels = torch.randn(8, 5, dtype=torch.float64), torch.arange(8) % 3
    estimator_of({"perturb.coefficient": "one"}, guess="dfa", perturb="activity").estimate(model, images, labels)
    h0 = model.blocks[0].body(images)
    h1 = model.blocks[1].body(h0)
    e = (model.blocks[2].aux(h1).softmax(1) - nn.functional.one_hot(labels, 3)) / 8
    for block, x, h in zip(model.blocks, (images, h0), (h0, h1)):
        delta = (e @ block.feedback) * (1 - h**2)
        assert_close(block.body[0].weight.grad, (delta.T @ x).detach())
        assert_close(block.body[0].bias.grad, delta.sum(0).detach())


@pytest.mark.parametrize("guess", FEEDBACK)
def test_matrices_are_drawn_once_with_a_variance_of_one_over_the_classes(guess):
    model, batch = network()
    estimator = estimator_of(guess=guess, perturb="activity")
    estimator.estimate(model, *batch)
    before = {name: value for name, value in snapshot(model).items() if name.endswith("feedback")}
    assert list(before) == [f"blocks.{j}.feedback" for j in range(3)]
    assert all(len(matrix) == 4 for matrix in before.values())
    entries = torch.cat([matrix.flatten() for matrix in before.values()])
    assert entries.var() == pytest.approx(1 / 4, rel=5 * (2 / len(entries)) ** 0.5)
    assert abs(entries.mean()) < 5 * (1 / 4 / len(entries)) ** 0.5
    estimator.estimate(model, *batch)
    assert all(torch.equal(snapshot(model)[name], matrix) for name, matrix in before.items())
    assert not {id(matrix) for matrix in model.buffers()} & {id(p) for p in estimator.trained_parameters(model)}


def test_drawing_them_moves_no_running_statistics():
    means = []
    for guess in ("exact", "dfa"):
        model, batch = network()
        estimator_of(guess=guess, perturb="activity").estimate(model, *batch)
        means.append(model.blocks[0].body[1].running_mean)
    assert means[0].any()
    assert torch.equal(*means)


@pytest.mark.parametrize("guess", FEEDBACK)
def test_matrices_come_with_a_loaded_state(guess):
    """A network that has never made a step, with another state of the generator, takes the same next step."""
    (model, batch), (other, _) = network(), network()
    estimator_of(guess=guess, perturb="activity").estimate(model, *batch)
    other.load_state_dict(snapshot(model))
    for seed, each in enumerate((model, other)):
        torch.manual_seed(seed)
        estimator_of(guess=guess, perturb="activity").estimate(each, *batch)
    assert_same_gradients(gradients(other), gradients(model), 0)


def test_matrices_move_with_the_network():
    model, (images, labels) = network()
    estimator = estimator_of(guess="dfa", perturb="activity")
    estimator.estimate(model, images, labels)
    before = model.blocks[0].feedback.clone()
    model.float()
    estimator.estimate(model, images.float(), labels)
    assert model.blocks[0].feedback.dtype == torch.float32
    assert torch.equal(model.blocks[0].feedback, before.float())
    model.to("meta")
    assert model.blocks[0].feedback.is_meta


@pytest.mark.parametrize(("guess", "runs"), [("dfa", 2), ("drtp", 1)])
def test_forward_mode_runs_the_network_once_more_for_the_error_alone(guess, runs):
    """Weights of a tensor or more take all tangents along, so that block 0 runs once for each of its own two."""
    model, batch = network()
    del model.blocks[0].body[1:3], model.blocks[0].body[-1]  # a convolution alone
    estimator = estimator_of({"perturb.granularity": "block"}, guess=guess, perturb="weight", engine="forward")
    estimator.estimate(model, *batch)
    calls = []
    model.blocks[0].body.register_forward_hook(lambda *call: calls.append(call))
    estimator.estimate(model, *batch)  # the network has changed, and is inspected
    calls.clear()
    estimator.estimate(model, *batch)
    assert len(calls) == runs + 1  # on the graph, and with a tangent


def test_images_of_another_size_are_refused():
    blocks = [Block(nn.Conv2d(3, 2, 3), nn.Identity()), Block(nn.AdaptiveAvgPool2d(1), nn.Flatten())]
    estimator = estimator_of(guess="dfa", perturb="activity")
    estimator.estimate(blocks, torch.randn(4, 3, 6, 6), torch.zeros(4, dtype=torch.long))
    with pytest.raises(BlockError, match=r"block 0 is \(2, 5, 5\) .* \(2, 4, 4\) when DFAGuess .*: use one"):
        estimator.estimate(blocks, torch.randn(4, 3, 7, 7), torch.zeros(4, dtype=torch.long))


class Energy(nn.Linear):
    """A head whose loss its logits have no part in."""

    def loss(self, h, labels):
        return self(h).square().mean(), self(h)


def test_a_loss_that_does_not_come_from_the_logits_is_refused():
    blocks = [Block(nn.Linear(3, 3), nn.Identity()), Block(nn.Tanh(), Energy(3, 2))]
    estimator = GradientEstimator(GlobalTarget(), DFAGuess(), ActivityPerturbation())
    with pytest.raises(BlockError, match=r"DFAGuess is not possible where the loss of the head, a Energy, .*: use"):
        estimator.estimate(blocks, torch.randn(4, 3), torch.zeros(4, dtype=torch.long))


@pytest.mark.parametrize("labels", [torch.rand(6, 1), torch.randint(2, (6, 3))], ids=["values", "several classes"])
def test_labels_that_are_no_classes_are_refused_by_drtp(labels):
    blocks = [Block(nn.Linear(5, 5), nn.Linear(5, labels.shape[1])) for _ in range(2)]
    model = BlockNetwork(blocks, loss=lambda output, labels: (output - labels).square().mean())
    with pytest.raises(BlockError, match="use class indices"):
        estimator_of(guess="drtp").estimate(model, torch.randn(6, 5), labels)


@pytest.mark.parametrize("guess", ["dfa", "momentum"])
def test_a_head_of_one_number_a_sample(guess):
    head = nn.Sequential(nn.Linear(5, 1), nn.Flatten(0))
    blocks = [Block(nn.Linear(5, 5), nn.Linear(5, 1)), Block(nn.Linear(5, 5), head)]
    model = BlockNetwork(blocks, loss=lambda output, labels: (output - labels).square().mean())
    estimator = estimator_of({"perturb.coefficient": "one"}, guess=guess)
    if guess == "dfa":
        with pytest.raises(BlockError, match=r"\(batch,\)"):
            estimator.estimate(model, torch.randn(6, 5), torch.rand(6))
    else:
        estimator.estimate(model, torch.randn(6, 5), torch.rand(6))
        assert model.blocks[0].body.weight.grad.any()


@pytest.mark.parametrize("guess", ["dfa", "drtp"])
def test_a_block_of_one_number_a_sample(guess):
    body, aux = nn.Sequential(nn.Linear(5, 1), nn.Flatten(0)), nn.Unflatten(0, (-1, 1))
    blocks = [Block(body, aux), Block(nn.Tanh(), nn.Sequential(nn.Unflatten(0, (-1, 1)), nn.Linear(1, 3)))]
    images, labels = torch.randn(6, 5), torch.arange(6) % 3
    estimator_of({"perturb.coefficient": "one"}, guess=guess).estimate(blocks, images, labels)
    logits = blocks[1].aux(torch.tanh(body(images)))
    error = torch.autograd.grad(nn.functional.cross_entropy(logits, labels), logits)[0]
    fed_back = (error if guess == "dfa" else nn.functional.one_hot(labels, 3).float()) @ blocks[0].feedback
    assert_close(blocks[0].body[0].weight.grad, (fed_back @ images).unsqueeze(0))


def test_a_block_with_a_parameter_of_its_own_is_loaded():
    class Scaled(Block):
        def __init__(self):
            super().__init__(nn.Linear(2, 2), nn.Linear(2, 2))
            self.scale = nn.Parameter(torch.ones(2))

    block, other = Scaled(), Scaled()
    with torch.no_grad():
        block.scale.fill_(3.0)
    other.load_state_dict(block.state_dict())
    assert torch.equal(other.scale, block.scale)


def test_labels_that_name_no_class_are_not_fed_back():
    blocks = [Block(nn.Linear(4, 4), nn.Linear(4, 1)) for _ in range(2)]
    model = BlockNetwork(blocks, loss=lambda outputs, labels: outputs.squeeze(1).sub(labels).square().mean())
    estimator = GradientEstimator(GlobalTarget(), DRTPGuess(), ActivityPerturbation())
    with pytest.raises(BlockError, match=r"of 1 outputs: use class indices \(batch,\) of two or more"):
        estimator.estimate(model, torch.randn(6, 4), torch.arange(6) % 2)
