"""Several auxiliary networks for each block, against plain autograd."""

import pytest
import torch
from definition import Definition
from helpers import (
    ALL_PERTURBATIONS,
    TARGETS,
    assert_all_close,
    assert_close,
    blocks_with_several,
    body_gradients,
    both_engines,
    build,
    estimator_of,
    every_pair,
    uncoupled_blocks,
)

from fglight import load_config
from fglight.errors import ConfigError
from fglight.models import Block, CNNAuxiliary, LinearAuxiliary, MLPAuxiliary
from fglight.runs import differences

COMBINATIONS = ("sum", "mean", "span", "max")


def own_losses(block, output, labels):
    return [Block(block.body, aux).loss(output, labels)[0] for aux in block.aux]


@every_pair(combine=COMBINATIONS, way=ALL_PERTURBATIONS, engine=["reverse", "forward"])
def test_directions_of_several_auxiliaries_by_definition(combine, way, engine):
    blocks, batch = blocks_with_several()
    perturb, granularity = way
    settings = {"perturb.granularity": granularity, "guess.combine": combine}
    estimator_of(settings, perturb=perturb, engine=engine).estimate(blocks, *batch)
    definition = Definition(blocks, *batch)

    guess, how = (definition.local, "mean") if combine == "sum" else (definition.by_auxiliary, combine)
    expected = definition.estimates("global", perturb, granularity, guess, combine=how)
    assert_all_close(body_gradients(blocks), expected, 1e-7)


@both_engines
@pytest.mark.parametrize("combine", COMBINATIONS)
def test_each_auxiliary_trains_by_its_own_loss(combine, engine):
    blocks, batch = blocks_with_several()
    estimator_of({"guess.combine": combine}, engine=engine).estimate(blocks, *batch)
    hidden = batch[0]
    for block in blocks[:-1]:
        hidden = block.body(hidden).detach()
        for aux, loss in zip(block.aux, own_losses(block, hidden, batch[1])):
            for parameter, expected in zip(aux.parameters(), torch.autograd.grad(loss, list(aux.parameters()))):
                assert_close(parameter.grad, expected)


@pytest.mark.parametrize("target", TARGETS)
def test_targets_are_of_the_sum_of_their_losses(target):
    blocks, batch = blocks_with_several()
    step = estimator_of(guess="exact", target=target).estimate(blocks, *batch)
    definition = Definition(blocks, *batch)
    assert_all_close(body_gradients(blocks), [definition.weight(target, j) for j in range(4)])
    if target != "global":
        losses = own_losses(definition.blocks[0], definition.outputs[0], batch[1])
        assert_close(step.local[0].loss, sum(losses).detach())


@both_engines
@pytest.mark.parametrize("target", ["local", "intermediate"])
def test_targets_of_a_projection_are_too(target, engine):
    blocks, batch = blocks_with_several()
    settings = {"perturb.granularity": "block"}
    estimator_of(settings, guess="local", target=target, engine=engine).estimate(blocks, *batch)
    assert_all_close(body_gradients(blocks), Definition(blocks, *batch).estimates(target, "weight", "block"))


@pytest.mark.parametrize(
    ("perturb", "granularity"), [("weight", "tensor"), ("activity", "sample"), ("weight_per_sample", "tensor")]
)
def test_the_span_comes_closer_to_the_target_than_each_single_one(perturb, granularity):
    def cosine(combine, kept=None):
        blocks, batch = blocks_with_several()
        if kept is not None:
            for block in blocks[:-1]:
                block.aux = block.aux[kept]
        settings = {"perturb.granularity": granularity, "guess.combine": combine}
        return estimator_of(settings, perturb=perturb).estimate(blocks, *batch, cosine=True).cosine[[0, 1, 3]]

    span, best = cosine("span"), cosine("max")
    for kept in range(3):
        assert (span > cosine("sum", kept).abs()).all()
        assert (best >= cosine("sum", kept).abs() - 1e-9).all()
    assert (span >= best - 1e-9).all()
    assert (span > cosine("sum")).all()


@pytest.mark.parametrize("combine", COMBINATIONS)
def test_a_single_auxiliary_is_projected_on_whatever_the_combination(combine):
    results = []
    for each in ("sum", combine):
        blocks, batch = uncoupled_blocks()
        estimator_of({"guess.combine": each}).estimate(blocks, *batch)
        results.append(body_gradients(blocks))
    assert_all_close(results[1], results[0])


def test_ntk_has_a_direction_from_every_auxiliary_of_every_draw():
    model, estimator, batch = build({"guess.directions": 2, "aux.parts": ["linear", "mlp"]}, guess="ntk", aux="several")
    found = []
    in_space = estimator.guess.in_space
    estimator.guess.in_space = lambda *given, **how: found.append(in_space(*given, **how)) or found[-1]
    estimator.estimate(model, *batch)
    assert {len(direction) for tensors in found for direction in tensors} == {4}
    assert estimator.guess.count(model.blocks[0]) == 4


def test_an_estimate_that_was():
    """The norm of the first block's estimate, as it was when this was written."""
    blocks, batch = blocks_with_several()
    estimator_of({"guess.combine": "span"}).estimate(blocks, *batch)
    assert float(blocks[0].body[0].weight.grad.norm()) == pytest.approx(0.07149235416245496, rel=1e-9)


# By configuration


def test_parts_are_built_as_each_would_be_alone():
    model, _, _ = build({"model.width": 0.5}, aux="several")
    kinds = CNNAuxiliary, MLPAuxiliary, LinearAuxiliary
    for kind, name, part in zip(kinds, ("cnn", "mlp", "linear"), model.blocks[0].aux, strict=True):
        assert type(part) is kind
        alone = build({"model.width": 0.5}, aux=name)[0].blocks[0].aux
        assert [p.shape for p in part.parameters()] == [p.shape for p in alone.parameters()]


@pytest.mark.parametrize(("setting", "width"), [({"aux.hidden": 3}, 3), ({"aux.scale": 0.25}, 4)])
def test_their_hidden_widths(setting, width):
    model, _, _ = build({"model.width": 0.5, "aux.parts": ["cnn"]} | setting, aux="several")
    assert model.blocks[0].aux[0][0].out_channels == width


def test_they_are_a_difference_from_the_paper():
    differing = differences(load_config(["aux=several"]))
    assert differing["aux.parts"] == ["cnn", "mlp", "linear"]
    assert not differences(load_config(["data=cifar10", "guess=local", "target=global"]))
    assert differences(load_config(["data=cifar10", "guess.combine=max"])) == {"guess.combine": "max"}


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (
            ["aux=several", "aux.parts=[cnn,mpl]"],
            r"aux\.parts must be a list of cnn, .*, got \['cnn', 'mpl'\]$",
        ),
        (["aux=several", "aux.parts=[]"], r"aux\.parts must be a list of .*, got \[\]$"),
        (["aux=several", "aux.parts=cnn"], r"aux\.parts must be a list of .*, got cnn$"),
        (
            ["aux=several", "aux.parts=[cnn,several]"],
            r"must be a list of cnn, linear, mlp, predsim, each at most once, got .*several",
        ),
        (["aux=several", "aux.scale=0"], r"aux\.scale must be .*, got 0"),
        (
            ["guess=gaussian", "guess.combine=sum"],
            r"combine must be one of mean, span, max for GaussianGuess, got sum$",
        ),
        (
            ["guess=gaussian", "guess.rescale=true"],
            r"guess\.combine must be span with guess\.rescale=true, got mean$",
        ),
        (
            ["guess=low_rank", "perturb=activity_span", "guess.combine=span", "guess.rescale=true"],
            r"rescale must be false with ActivitySpanPerturbation, got true$",
        ),
        (["guess=guided", "guess.alpha=2"], r"guess\.alpha must be a number from 0 to 1, got 2$"),
        (["guess=low_rank", "guess.rank=0"], r"guess\.rank must be a whole number from 1 on, got 0$"),
    ],
)
def test_what_means_nothing_is_refused_in_one_line(overrides, said):
    with pytest.raises(ConfigError, match=said):
        load_config(overrides)
