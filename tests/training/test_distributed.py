"""Two processes on parts of a batch give the numbers of one process on all of it."""

import re

import pytest
import torch
from forked import PROCESSES
from helpers import assert_same_gradients
from two_processes import LOSSES, PARTS, REFUSED, TRAINED, chosen, numbers, similarity, work

from fglight.estimators.coefficients import RandomSign

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*treespec:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*treespec:DeprecationWarning"),
]


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """What every process found."""
    folder = tmp_path_factory.mktemp("processes")
    processes = [PROCESSES.Process(target=work, args=(rank, folder, chosen())) for rank in range(len(PARTS))]
    try:
        for process in processes:
            process.start()
        for process in processes:
            process.join()
            assert process.exitcode == 0
    finally:
        for process in processes:
            process.kill()
    return [torch.load(folder / f"{rank}.pt") for rank in range(len(PARTS))]


@pytest.fixture(scope="module")
def whole():
    return numbers(slice(None), 1, chosen())


@pytest.mark.parametrize("loss", LOSSES)
def test_numbers_are_those_of_one_process(loss, parts, whole):
    for case, (expected, told) in whole.items():
        if case[-1] != loss:
            continue
        for rank in range(len(PARTS)):
            found, also_told = parts[rank][0][case]
            try:
                # Next to eps in c = <t, g> / (|g|^2 + eps), the square of a single channel's guess may be small.
                assert_same_gradients(found, expected, 1e-7 if "channel" in case[-3] else 1e-9)
                assert also_told.keys() == told.keys()
                for name, value in told.items():
                    torch.testing.assert_close(also_told[name], value, rtol=1e-7, atol=1e-9, equal_nan=True)
            except AssertionError as error:
                error.add_note(f"process {rank}, {case}")
                raise


def test_processes_agree_bit_for_bit_on_what_they_log_and_where_they_end(parts):
    (first, *_), (second, *_) = parts
    for case in TRAINED:
        for values, others in zip(first["trained", *case], second["trained", *case]):
            assert values.keys() == others.keys()
            for name, value in values.items():
                assert torch.equal(value, others[name]), (case, name)


def test_processes_agree_although_they_draw_apart(parts):
    (_, first, *_), (_, second, *_) = parts
    for guess, expected in first.items():
        assert_same_gradients(second[guess], expected, 0)


def test_processes_draw_for_their_own_samples_what_one_process_draws_and_stay_in_step(parts):
    torch.manual_seed(0)
    expected = RandomSign()(None, torch.zeros(100))
    signs, states = zip(*(found[2] for found in parts))
    assert torch.equal(torch.cat(signs), expected)
    assert all(torch.equal(state, torch.get_rng_state()) for state in states)


def test_a_network_that_compares_samples_counts_by_those_of_each_process(parts):
    losses, grads = zip(similarity(slice(0, PARTS[0])), similarity(slice(PARTS[0], None)))
    for _, _, _, (loss, found), _ in parts:
        torch.testing.assert_close(loss, (PARTS[0] * losses[0] + PARTS[1] * losses[1]) / sum(PARTS))
        for name, gradient in found.items():
            torch.testing.assert_close(gradient, (PARTS[0] * grads[0][name] + PARTS[1] * grads[1][name]) / sum(PARTS))


@pytest.mark.parametrize("name", REFUSED)
def test_what_would_be_wrong_is_refused_in_one_line(name, parts):
    for *_, said in parts:
        assert re.search(REFUSED[name][1], said[name])
        assert "\n" not in said[name]
