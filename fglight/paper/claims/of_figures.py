"""What the figures show: losses by depth and in training, and how far guess and target agree."""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import pairwise, product
from math import inf
from typing import Any

from fglight.log_names import COSINE, LOCAL_LOSS, TEST_LOSS, TRAIN_LOSS, of_block, of_split
from fglight.paper.claims.claim import Claim, Comparison, Quantity
from fglight.paper.figures import FIGURES, Curve, Figure, depth_metrics

QUARTERS = (EARLY, _, THIRD, LATE) = ((0.0, 0.25), (0.25, 0.5), (0.5, 0.75), (0.75, 1.0))
ALWAYS = (0.0, 1.0)
"""Parts of training."""

CONVERGED = 0.58
"""Nats: a quarter of log 10, the loss of guessing among ten classes."""


Period = tuple[float, float] | None
Pairs = Iterable[tuple[Quantity, Quantity]]

_DYNAMICS = [figure for figure in FIGURES.values() if figure.blocks]
"""Figures 4, 5, 8 and 9."""


def _curve(number: int, label: str) -> Curve:
    return next(curve for curve in FIGURES[number].curves if curve.label == label)


def _of(curve: Curve, metric: str, period: Period = None) -> Quantity:
    return Quantity(curve.cell, metric, period, curve.probe)


def _with(quantity: Quantity, **parts: Any) -> Quantity:
    """The same of another cell."""
    return replace(quantity, cell=replace(quantity.cell, **parts))


def _compare(pairs: Pairs) -> tuple[Comparison, ...]:
    """The first of each pair less the second."""
    return tuple(Comparison((first,), (second,)) for first, second in pairs)


def _from_the_block_before(label: str) -> Pairs:
    """In Figures 2 and 7, the loss of each block with that of the block before."""
    for curve in (_curve(number, label) for number in (2, 7)):
        for before, block in pairwise(depth_metrics(curve.cell.blocks)):
            yield _of(curve, block), _of(curve, before)


def _random_by_target(block: int) -> Pairs:
    """In Figures 2 and 7, a block's loss with gaussian guesses of the global and of the local target."""
    for number in (2, 7):
        by_target = (_curve(number, f"Gaussian guess, {target} target") for target in ("global", "local"))
        of_global, of_local = (_of(curve, depth_metrics(curve.cell.blocks)[block]) for curve in by_target)
        yield of_global, of_local


def _drawn(metric: str, period: Period = None, **parts: str) -> list[Quantity]:
    """In Figures 4, 5, 8 and 9, a metric of each block and curve drawn, or of the cells with some parts."""
    return [
        _of(curve, of_block(metric, j), period)
        for figure in _DYNAMICS
        for curve in figure.curves
        if parts.items() <= vars(curve.cell).items()
        for j in figure.blocks
    ]


def _by_depth(metric: str, period: Period, figures: Iterable[Figure] = _DYNAMICS) -> Pairs:
    """A metric of each block drawn but the first, with that of the block drawn before."""
    for figure in figures:
        for curve, (before, block) in product(figure.curves, pairwise(figure.blocks)):
            yield _of(curve, of_block(metric, block), period), _of(curve, of_block(metric, before), period)


def _beside_other_auxiliaries(cnns: Iterable[Quantity]) -> Pairs:
    """Each quantity of the CNN auxiliary with the same of the MLP's and the linear one's."""
    return ((cnn, _with(cnn, aux=other)) for cnn in cnns for other in ("mlp", "linear"))


def _in_both_spaces(metric: str, period: Period) -> Pairs:
    """Each of a metric in the space of weights with the same one in the space of activities."""
    return ((weight, _with(weight, perturb="activity")) for weight in _drawn(metric, period, perturb="weight"))


def _rise_beside_intermediate() -> Iterator[Comparison]:
    """By how much more the cosine rises from the first block drawn to the last with the global target."""
    for figure in _DYNAMICS:
        for curve in figure.curves:
            low, high = (_of(curve, of_block(COSINE, figure.blocks[place]), ALWAYS) for place in (0, -1))
            yield Comparison((high, _with(low, target="intermediate")), (low, _with(high, target="intermediate")))


def _growth_of_gap() -> Iterator[Comparison]:
    """By how much more test less train loss grows in the space of activities, from the first quarter to the last."""
    losses = (
        _in_both_spaces(of_split(split, LOCAL_LOSS), period) for split in ("test", "train") for period in (EARLY, LATE)
    )
    for test_early, test_late, train_early, train_late in zip(*losses):
        weight, activity = 0, 1
        yield Comparison(
            (test_late[activity], train_early[activity], test_early[weight], train_late[weight]),
            (test_early[activity], train_late[activity], test_late[weight], train_early[weight]),
        )


FIGURE_CLAIMS: tuple[Claim, ...] = (
    *(
        Claim(
            f"{words}: local train losses {direction} with depth.",
            "Sec. 4.3, Fig. 2 (and Fig. 7)",
            _compare(pair if direction == "rise" else pair[::-1] for pair in _from_the_block_before(label)),
            of="most",
            reading="Each block against the one before, most of them.",
        )
        for words, label, direction in (
            ("End-to-end", "End-to-end", "fall"),
            ("Local guesses of the global target", "Local guess, global target", "fall"),
            ("Random guesses of the global target", "Gaussian guess, global target", "rise"),
            ("Random guesses of the local target", "Gaussian guess, local target", "rise"),
        )
    ),
    Claim(
        "With random guesses, the local target converges better than the global one at the first block.",
        "Caption of Fig. 2 (and Fig. 7)",
        _compare(_random_by_target(block=0)),
        reading="The first auxiliary network's train loss at the end. With the global target this network only logs.",
    ),
    Claim(
        "With random guesses, the local target converges worse than the global one for the whole network.",
        "Caption of Fig. 2 (and Fig. 7)",
        _compare(pair[::-1] for pair in _random_by_target(block=-1)),
        reading="The network's own train loss at the end.",
    ),
    Claim(
        "Local guesses let the global loss converge.",
        "Sec. 4.2, Fig. 3 (and Fig. 6)",
        tuple(Comparison((_of(_curve(number, "Local guess"), TRAIN_LOSS),)) for number in (3, 6)),
        least=-inf,
        most=CONVERGED,
        reading=f"Read as a train loss at the end of less than {CONVERGED}, a quarter of log 10.",
    ),
    Claim(
        "NTK and random guesses do not let the global loss converge.",
        "Sec. 4.2, Fig. 3 (and Fig. 6)",
        tuple(
            Comparison((_of(_curve(number, label), TRAIN_LOSS),))
            for number in (3, 6)
            for label in ("NTK guess", "Random (Gaussian) guess")
        ),
        least=CONVERGED,
        reading=f"Read as a train loss at the end of more than {CONVERGED}, a quarter of log 10.",
    ),
    Claim(
        "Local guesses keep a gap to end-to-end training throughout.",
        "Caption of Fig. 3 (and Fig. 6)",
        _compare(
            (_of(_curve(number, "Local guess"), loss, part), _of(_curve(number, "End-to-end"), loss, part))
            for number, loss, part in product((3, 6), (TRAIN_LOSS, TEST_LOSS), QUARTERS)
        ),
    ),
    Claim(
        "The cosine similarity of local guess and global target is positive.",
        "Sec. 4.4, Figs. 4 and 5 (and 8 and 9)",
        tuple(Comparison((cosine,)) for cosine in _drawn(COSINE, ALWAYS)),
        reading="The mean over training, of each block drawn.",
    ),
    Claim(
        "The cosine similarity of local guess and global target rises with depth.",
        "Sec. 4.4, Figs. 4 and 5 (and 8 and 9)",
        _compare(_by_depth(COSINE, ALWAYS)),
        reading="The mean over training, of each block drawn against the one drawn before.",
    ),
    Claim(
        "Learning improves with depth, with every auxiliary network.",
        "Caption of Fig. 4",
        _compare(pair[::-1] for pair in _by_depth(of_split("train", LOCAL_LOSS), None, [FIGURES[4]])),
        reading="The local train loss at the end, of each block drawn against the one drawn before.",
    ),
    Claim(
        "Guesses align with the intermediate target more evenly across blocks than with the global one.",
        "Sec. 4.3",
        tuple(_rise_beside_intermediate()),
        reading="The mean over training rises less from the first block drawn to the last. Table 5 needs cosine=true.",
    ),
    Claim(
        "The generalization gap is more consistent during training in the space of weights than in that of activities.",
        "Captions of Figs. 5 and 9 (against Figs. 4 and 8)",
        tuple(_growth_of_gap()),
        reading="Local test less train loss grows less from the first quarter to the last, of each block drawn.",
    ),
    Claim(
        "Most of the time the CNN auxiliary has the highest cosine similarity.",
        "Sec. 4.4, Figs. 4 and 5 (and 8 and 9)",
        _compare(_beside_other_auxiliaries(_drawn(COSINE, ALWAYS, aux="cnn"))),
        of="most",
        reading="The mean over training, of each block drawn.",
    ),
    Claim(
        "Most of the time the CNN auxiliary has the lowest test loss.",
        "Sec. 4.4, Figs. 4 and 5 (and 8 and 9)",
        _compare(pair[::-1] for pair in _beside_other_auxiliaries(_drawn(of_split("test", LOCAL_LOSS), aux="cnn"))),
        of="most",
        reading="At the end of training, of each block drawn.",
    ),
    Claim(
        "Most cosine similarities descend toward the end of training.",
        "Sec. 4.4, Figs. 4 and 5 (and 8 and 9)",
        _compare(zip(_drawn(COSINE, THIRD), _drawn(COSINE, LATE))),
        of="most",
        reading="The third quarter of training against the last.",
    ),
    Claim(
        "Cosine similarities are higher in the space of weights than in that of activities.",
        "Captions of Figs. 5 and 9 (against Figs. 4 and 8)",
        _compare(_in_both_spaces(COSINE, ALWAYS)),
        reading="The mean over training, of each block drawn.",
    ),
    Claim(
        "Cosine similarities fall more in the space of weights than in that of activities.",
        "Captions of Figs. 5 and 9 (against Figs. 4 and 8)",
        tuple(
            Comparison((weight, activity_late), (weight_late, activity))
            for (weight, activity), (weight_late, activity_late) in zip(
                _in_both_spaces(COSINE, EARLY), _in_both_spaces(COSINE, LATE)
            )
        ),
        reading="From the first quarter of training to the last, of each block drawn.",
    ),
)
