"""The times of many kinds of cell from few measurements."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from omegaconf import DictConfig

from fglight.sweeps.planning.kinds import Kind
from fglight.sweeps.planning.timing import Network, Seconds

CARE, LEAST = 8.0, 0.2
"""Seconds that all parts share, and what each gets at least: a batch that takes as long is large enough to go by."""


@dataclass(frozen=True)
class Times:
    """What a batch takes, in seconds, in training and in a test."""

    training: float
    testing: float


def by_model(kinds: Sequence[Kind]) -> list[list[Kind]]:
    """The kinds of each model, one on the network that most of them have first.

    Those that cannot be taken apart stand alone.
    """
    models: dict[str | Kind, list[Kind]] = {}
    for kind in kinds:
        models.setdefault(kind if kind.whole else kind.model, []).append(kind)
    counts = Counter(kind.network for kind in kinds)
    return [sorted(group, key=lambda kind: -counts[kind.network]) for group in models.values()]


def measure(configs: Mapping[Kind, DictConfig], done: Callable[[], object] = lambda: None) -> dict[Kind, Times]:
    """Time the parts of all kinds' steps, and put them together.

    On one network of each model the passes of every estimator are timed, and the auxiliary networks by themselves. On
    the others backpropagation alone is: all else takes as many times as long there as on the first.

    Args:
        configs: a configuration of each kind.
        done: called whenever a part has been timed.
    """
    groups = by_model(list(configs))
    enough = max(CARE / sum(map(parts, groups)), LEAST)
    times = {}
    for group in groups:
        times |= _together(group, configs, enough, done)
    return times


def parts(group: Sequence[Kind]) -> int:
    """How many parts of kinds with the same model are to be timed."""
    return sum(len({getattr(kind, part) for kind in group} - {""}) for part in ("network", "passes", "auxiliaries"))


def _together(
    group: Sequence[Kind], configs: Mapping[Kind, DictConfig], enough: float, done: Callable[[], object]
) -> dict[Kind, Times]:
    first, *_ = group
    network = Network(configs[first], auxiliaries=first.whole)
    tests = network.testing(enough, auxiliaries=first.whole)
    passes, auxiliaries, scales = {}, {"": (Seconds(), Seconds())}, {first.network: 1.0}
    for kind in group:
        if kind.passes not in passes:
            passes[kind.passes] = network.training(configs[kind], enough)
            done()
        if kind.auxiliaries not in auxiliaries:
            auxiliaries[kind.auxiliaries] = network.auxiliaries(configs[kind])
            done()
    others = {kind.network: kind for kind in group if kind.network != first.network}
    base = network.backpropagation(enough) if others else None
    for name, kind in others.items():
        del network  # before the next one takes memory
        network = Network(configs[kind])
        scales[name] = network.backpropagation(enough).of(kind.batch) / base.of(kind.batch)
        done()
    times = {}
    for kind in group:
        train, test = auxiliaries[kind.auxiliaries]
        training, testing = passes[kind.passes].of(kind.batch), tests.of(kind.batch)
        scale = scales[kind.network]
        times[kind] = Times(scale * (training + train.of(kind.batch)), scale * (testing + test.of(kind.batch)))
    return times
