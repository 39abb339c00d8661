"""The times of many kinds of cell from few measurements."""

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter

from omegaconf import DictConfig

from fglight.sweeps.planning.kinds import Kind
from fglight.sweeps.planning.size import parameter_count
from fglight.sweeps.planning.timing import Network, Seconds

HUGE = 1e8
"""Parameters above which a network is not timed, but taken for so many times a smaller one with as large images."""

CARE, LEAST = 8.0, 0.2
"""Seconds that all parts share, and what each gets at least: a batch that takes as long is large enough to go by."""


@dataclass(frozen=True)
class Times:
    """What a batch takes, in seconds, in training and in a test."""

    training: float
    testing: float


def by_model(kinds: Collection[Kind]) -> list[list[Kind]]:
    """The kinds of each model, the largest first, and of each one on the network that most of them have.

    Those that cannot be taken apart stand alone.
    """
    models: dict[str | Kind, list[Kind]] = {}
    for kind in kinds:
        models.setdefault(kind if kind.whole else kind.model, []).append(kind)
    counts = Counter(kind.network for kind in kinds)
    ordered = [sorted(group, key=lambda kind: -counts[kind.network]) for group in models.values()]
    return sorted(ordered, key=lambda group: -len(group))


def measure(configs: Mapping[Kind, DictConfig], done: Callable[[], object] = lambda: None) -> dict[Kind, Times]:
    """Time the parts of all kinds' steps, and put them together.

    The passes of every estimator are timed on one network of a family, on the others backpropagation alone is: all
    passes take as many times as long there. Auxiliary networks are timed by themselves, on one network of each model.
    Testing them is taken for a third of training them, and is a small part of a run.

    Args:
        configs: a configuration of each kind.
        done: called whenever a part has been timed.
    """
    groups = by_model(list(configs))
    enough = max(CARE / parts(groups), LEAST)
    passes: dict[tuple[str | Kind, str], Passes] = {}
    times: dict[Kind, Times] = {}
    for group in groups:
        times |= _together(group, configs, passes, enough, done)
    return times


def parts(groups: Sequence[Sequence[Kind]]) -> int:
    """How many parts are to be timed."""
    of_models = sum(
        len({kind.network for kind in group}) + len({kind.auxiliaries for kind in group} - {""}) for group in groups
    )
    return of_models + len({(kind.comparable, kind.passes) for group in groups for kind in group})


@dataclass(frozen=True)
class Passes:
    """What an estimator's passes take on a network, and what backpropagation does."""

    seconds: Seconds
    backpropagation: Seconds

    def of(self, batch: int, backpropagation: Seconds) -> float:
        """Seconds of a batch on a network where backpropagation takes other ones."""
        return self.seconds.of(batch) / self.backpropagation.of(batch) * backpropagation.of(batch)


def _together(
    group: Sequence[Kind],
    configs: Mapping[Kind, DictConfig],
    passes: dict[tuple[str | Kind, str], Passes],
    enough: float,
    done: Callable[[], object],
) -> dict[Kind, Times]:
    first, *_ = group
    network = Network(configs[first], auxiliaries=first.whole)
    tests = network.testing(0, auxiliaries=first.whole)  # a small part of a run
    base = network.backpropagation(enough)
    done()
    bases, auxiliaries = {first.network: base}, {"": Seconds()}
    for kind in group:
        if (kind.comparable, kind.passes) not in passes:
            passes[kind.comparable, kind.passes] = Passes(network.training(configs[kind], enough), base)
            done()
        if kind.auxiliaries not in auxiliaries:
            auxiliaries[kind.auxiliaries] = network.auxiliaries(configs[kind])
            done()
    timed = [(parameter_count(configs[first]), first.shape, base)]
    others = {kind.network: kind for kind in group if kind.network != first.network}
    for size, kind in sorted(((parameter_count(configs[kind]), kind) for kind in others.values()), key=itemgetter(0)):
        smaller = [(other, base) for other, like, base in timed if like == kind.shape]
        if size > HUGE and smaller:  # width changes the work of a step as it changes the number of weights
            other, like = smaller[-1]
            bases[kind.network] = like.scaled(size / other)
        else:
            del network  # before the next one takes memory
            network = Network(configs[kind])
            larger = configs[kind].data.image_size / configs[first].data.image_size
            bases[kind.network] = network.backpropagation(max(1.0, larger) * enough)  # large images need memory anew
            timed.append((size, kind.shape, bases[kind.network]))
        done()
    times = {}
    for kind in group:
        here, aux = bases[kind.network], auxiliaries[kind.auxiliaries].of(kind.batch)
        scale = here.of(kind.batch) / base.of(kind.batch)
        training = passes[kind.comparable, kind.passes].of(kind.batch, here) + scale * aux
        times[kind] = Times(training, scale * (tests.of(kind.batch) + aux / 3))
    return times
