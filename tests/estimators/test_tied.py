"""Parameters of layers in several blocks, as of a language model's tied embeddings."""

from copy import deepcopy

import pytest
import torch
from helpers import assert_all_close, assert_close
from torch.nn import functional as F
from transformers import GPT2Config, GPT2LMHeadModel

from fglight.errors import BlockError
from fglight.estimators import (
    ExactGuess,
    FiniteDifferences,
    ForwardMode,
    GaussianGuess,
    GlobalTarget,
    GradientEstimator,
    ReverseMode,
    WeightPerSamplePerturbation,
    WeightPerturbation,
)
from fglight.models import exact_blocks, split

SIZES = {"vocab_size": 13, "n_embd": 8, "n_layer": 3, "n_head": 2, "n_positions": 16}
ENGINES = [ReverseMode, ForwardMode, FiniteDifferences]
FIRST, COPY = "transformer.wte.weight", "lm_head.weight"


def next_tokens(logits, ids):
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())


def language_model():
    torch.manual_seed(0)
    network = GPT2LMHeadModel(GPT2Config(**SIZES, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0)).double()
    ids = torch.randint(13, (4, 6))
    blocks = split(network, ["transformer.h.1", "transformer.h.2"], ids, loss=next_tokens)
    return network, blocks, ids


def estimate(blocks, ids, guess, engine, granularity="tensor"):
    torch.manual_seed(1)
    space = WeightPerturbation(granularity)
    GradientEstimator(GlobalTarget(), guess, space, engine=engine).estimate(blocks, ids, ids)
    return {p: p.grad for p in blocks.parameters() if p.grad is not None}


def test_the_exact_gradient_of_tied_parameters_is_that_of_all_their_uses():
    network, blocks, ids = language_model()
    plain = GPT2LMHeadModel(network.config).double()
    plain.load_state_dict(network.state_dict())
    next_tokens(plain(ids).logits, ids).backward()
    estimate(blocks, ids, ExactGuess(), ReverseMode())
    assert network.get_parameter(COPY).grad is None
    for name, parameter in plain.named_parameters():
        assert_close(network.get_parameter(name).grad, parameter.grad)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("last", [0, 1])
@pytest.mark.parametrize("granularity", ["tensor", "network"])
def test_each_use_has_an_estimate_and_the_first_has_their_sum(engine, last, granularity):
    network, blocks, ids = language_model()
    tied = exact_blocks(blocks, last)
    untied = deepcopy(tied.blocks)  # a parameter is copied with memory of its own
    estimates = estimate(tied, ids, GaussianGuess(), engine(), granularity)
    apart = estimate(untied, ids, GaussianGuess(), engine(), granularity)
    places = dict(zip(tied.parameters(), untied.parameters(), strict=True))
    first, copy = network.get_parameter(FIRST), network.get_parameter(COPY)
    assert_close(estimates.pop(first), apart[places[first]] + apart[places[copy]])
    assert copy.grad is None
    assert_all_close([*estimates.values()], [apart[places[parameter]] for parameter in estimates])


def test_tied_parameters_stay_one():
    network, blocks, ids = language_model()
    first, copy = network.get_parameter(FIRST), network.get_parameter(COPY)
    for moved in (blocks, deepcopy(blocks), exact_blocks(blocks, 0).double(), blocks.float()):
        with torch.no_grad():
            next(moved.parameters()).add_(1)
        body = moved.blocks[0].body
        assert any(torch.equal(p, next(body.parameters())) for p in [*moved.parameters()][1:])
    descent = torch.optim.AdamW(blocks.parameters(), lr=0.1, weight_decay=0.1)
    before = first.detach().clone()
    estimate(blocks, ids, GaussianGuess(), ReverseMode())
    descent.step()
    assert torch.equal(first, copy)
    assert not torch.equal(first, before)


def test_weights_that_move_where_they_lie_have_one_use():
    _, blocks, ids = language_model()
    with pytest.raises(BlockError, match=r"engine\.redraw=true must have parameters that one block uses"):
        estimate(exact_blocks(blocks, 0), ids, GaussianGuess(), FiniteDifferences(redraw=True), "network")


@pytest.mark.parametrize("space", [WeightPerturbation, WeightPerSamplePerturbation])
def test_each_use_is_verified(space):
    _, blocks, ids = language_model()
    found = GradientEstimator(GlobalTarget(), GaussianGuess(), space()).verify(blocks, ids, ids)
    reverse, forward, _ = found.engines
    assert found.agrees
    assert not forward.refused
    assert {one.block for one in reverse.compared if one.parameter == "weight"} == {0, 1, 2}
    assert all(parameter.grad is None for parameter in blocks.parameters())
