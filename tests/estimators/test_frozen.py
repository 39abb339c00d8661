"""The control that trains the last block alone."""

import pytest
import torch
from helpers import MODELS, TARGETS, build, module_of


def gradients(model, estimator, batch):
    torch.manual_seed(1)
    estimator.estimate(model, *batch)
    return {name: parameter.grad for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("target", TARGETS)
def test_the_last_block_alone_has_backpropagations_gradient(name, target):
    model, estimator, batch = build(guess="frozen", target=target, model=name)
    exact = gradients(*build(guess="exact", target="global", model=name))
    found = gradients(model, estimator, batch)
    last = f"blocks.{len(model.blocks) - 1}."
    for key, gradient in found.items():
        if key.startswith(last):
            torch.testing.assert_close(gradient, exact[key])
        else:
            assert (gradient is not None) == (".aux." in key and target != "global")
    trained = {id(parameter) for parameter in estimator.trained_parameters(model)}
    assert trained == {id(p) for p in model.parameters() if p.grad is not None}


def test_auxiliary_networks_train_as_with_local_learning():
    local = gradients(*build(guess="exact", target="local"))
    frozen = gradients(*build(guess="frozen", target="local"))
    for key, gradient in frozen.items():
        if ".aux." in key:
            torch.testing.assert_close(gradient, local[key])


def test_weight_decay_and_momentum_leave_frozen_blocks_as_they_were_drawn():
    model, estimator, batch = build(guess="frozen", dtype=torch.float32)
    module = module_of(model, estimator)
    before = [parameter.clone() for parameter in model.blocks[0].body.parameters()]
    optimizer = module.configure_optimizers()["optimizer"]
    for _ in range(2):
        estimator.estimate(model, *batch)
        optimizer.step()
    assert all(map(torch.equal, before, model.blocks[0].body.parameters()))


def test_frozen_blocks_keep_no_graph():
    model, estimator, batch = build(guess="frozen")
    needed = []
    model.blocks[0].body.register_forward_hook(lambda *call: needed.append(call[2].requires_grad))
    estimator.estimate(model, *batch)
    assert needed == [False]


def test_forward_mode_refuses_it():
    with pytest.raises(ValueError, match=r"FrozenGuess has none: use engine=reverse"):
        build(guess="frozen", engine="forward")
