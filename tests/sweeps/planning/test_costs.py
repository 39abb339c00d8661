"""The times of many kinds of cell follow from few measurements."""

from collections import Counter

import pytest
from helpers import compose
from planned import auxiliaries_cost, configs_of, passes_cost

from fglight.sweeps.planning import costs
from fglight.sweeps.planning.kinds import Kind


def test_all_tables_follow_from_a_few_parts(machine):
    configs = {Kind.of(cfg): cfg for cfg in configs_of("table=all").values()}
    assert len(configs) == 278
    times = costs.measure(configs)
    assert times.keys() == configs.keys()
    # Both ways to cut the network up, at its width on three sizes of images, and two other widths; not the widest.
    assert Counter(machine.timed) == {"backpropagation": 2 * 3 + 2, "training": 14, "auxiliaries": 16}
    for kind, cfg in configs.items():
        speed = cfg.model.width**2 * cfg.data.image_size**2
        train = auxiliaries_cost(cfg)
        # Of the widest network it is the number of parameters that tells, which is not just the square of the width.
        close = 0.02 if cfg.model.width == 4 else 1e-6
        assert times[kind].training == pytest.approx(speed * (1 + 2 * 128) * (passes_cost(cfg) + train), rel=close)
        # What a test takes follows backpropagation from one network to another, too.
        assert times[kind].testing == pytest.approx(speed * (1 + 2 * 128) * (1 + train / 3), rel=close)


def test_a_guess_whose_use_of_auxiliary_networks_is_not_known_is_timed_with_them(machine):
    configs = [compose({"guess.directions": 4}, guess="ntk", aux="mlp"), compose(guess="ntk", aux="mlp")]
    kinds = [Kind.of(cfg) for cfg in configs]
    assert [kind.whole for kind in kinds] == [True, False]
    times = costs.measure(dict(zip(kinds, configs)))
    assert times[kinds[0]] == times[kinds[1]]
    assert sorted(machine.timed) == ["auxiliaries", "backpropagation", "backpropagation", "training", "training"]
