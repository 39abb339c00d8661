"""What the figures show: losses by depth and in training, and how far guess and target agree."""

from dataclasses import replace
from itertools import pairwise
from math import inf

from fglight.paper.claims.claim import Claim, Comparison, Quantity
from fglight.paper.figures import FIGURES, Curve, depth_metrics

QUARTERS = (EARLY, _, THIRD, LATE) = ((0.0, 0.25), (0.25, 0.5), (0.5, 0.75), (0.75, 1.0))
ALWAYS = (0.0, 1.0)
"""Parts of training."""

CONVERGED = 0.58
"""Nats: a quarter of log 10, the loss of guessing among ten classes."""


def _curve(number: int, label: str) -> Curve:
    return next(curve for curve in FIGURES[number].curves if curve.label == label)


def _of(curve: Curve, metric: str, period: tuple[float, float] | None = None) -> Quantity:
    return Quantity(curve.cell, metric, period, curve.probe)


def _rises(label: str) -> tuple[Comparison, ...]:
    """In Figures 2 and 7, the loss of each block less that of the block before."""
    curves = [_curve(number, label) for number in (2, 7)]
    return tuple(
        Comparison((_of(curve, deeper),), (_of(curve, metric),))
        for curve in curves
        for metric, deeper in pairwise(depth_metrics(curve.cell.blocks))
    )


def _falls(label: str) -> tuple[Comparison, ...]:
    return tuple(Comparison(rise.minus, rise.plus) for rise in _rises(label))


def _random_by_target(block: int) -> list[list[Quantity]]:
    """In Figures 2 and 7, a block's loss with gaussian guesses of the global and of the local target."""
    return [
        [
            _of(_curve(number, f"Gaussian guess, {target} target"), depth_metrics(blocks)[block])
            for target in ("global", "local")
        ]
        for number, blocks in ((2, 8), (7, 16))
    ]


def _by_block(metric: str, period: tuple[float, float] | None, *, space: str = "") -> dict[tuple, Quantity]:
    """In Figures 4, 5, 8 and 9, a metric of each curve and block drawn, or of the figures of one perturbation."""
    return {
        (number, curve.label, j): _of(curve, f"{metric}/block{j}", period)
        for number, figure in FIGURES.items()
        if figure.blocks
        for curve in figure.curves
        if curve.cell.perturb.startswith(space)
        for j in figure.blocks
    }


def _by_depth(quantities: dict[tuple, Quantity], *numbers: int) -> list[tuple[Quantity, Quantity]]:
    """Each quantity of some figures with that of the next block drawn."""
    return [
        (quantities[number, curve.label, block], quantities[number, curve.label, deeper])
        for number in numbers
        for curve in FIGURES[number].curves
        for block, deeper in pairwise(FIGURES[number].blocks)
    ]


def _rise_beside_intermediate() -> tuple[Comparison, ...]:
    """By how much more the cosine rises from the first block drawn to the last with the global target."""
    found = []
    for number in _DYNAMICS:
        for curve in FIGURES[number].curves:
            low, *_, high = (_COSINES[number, curve.label, block] for block in FIGURES[number].blocks)
            nearer = [replace(one, cell=replace(one.cell, target="intermediate")) for one in (low, high)]
            found.append(Comparison((high, nearer[0]), (low, nearer[1])))
    return tuple(found)


def _growth_of_gap() -> tuple[Comparison, ...]:
    """By how much more test less train loss grows in the space of activities, from the first quarter to the last."""
    losses = (_in_both_spaces(period, f"{split}/local_loss") for split in ("test", "train") for period in (EARLY, LATE))
    weight, activity = 0, 1
    return tuple(
        Comparison(
            (test_late[activity], train_early[activity], test_early[weight], train_late[weight]),
            (test_early[activity], train_late[activity], test_late[weight], train_early[weight]),
        )
        for test_early, test_late, train_early, train_late in zip(*losses)
    )


def _others(quantities: dict[tuple, Quantity]) -> list[tuple[Quantity, Quantity]]:
    """Each quantity of the CNN auxiliary with the same of the MLP's and the linear one's."""
    return [
        (cnn, quantities[number, other, j])
        for (number, label, j), cnn in quantities.items()
        if label == "CNN"
        for other in ("MLP", "Linear")
    ]


def _in_both_spaces(period: tuple[float, float], metric: str = "cosine") -> list[tuple[Quantity, Quantity]]:
    """Each of a metric in the space of weights with the same one in the space of activities."""
    activity = {4: 5, 8: 9}
    weight = _by_block(metric, period, space="weight")
    return [
        (weight[activity[number], label, j], same)
        for (number, label, j), same in _by_block(metric, period, space="activity").items()
    ]


_COSINES = _by_block("cosine", ALWAYS)
_DYNAMICS = [number for number, figure in FIGURES.items() if figure.blocks]

FIGURE_CLAIMS: tuple[Claim, ...] = (
    *(
        Claim(
            f"{words}: local train losses {direction} with depth.",
            "Sec. 4.3, Fig. 2 (and Fig. 7)",
            (_rises if direction == "rise" else _falls)(label),
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
        tuple(Comparison((of_global,), (of_local,)) for of_global, of_local in _random_by_target(block=0)),
        reading="The first auxiliary network's train loss at the end. With the global target this network only logs.",
    ),
    Claim(
        "With random guesses, the local target converges worse than the global one for the whole network.",
        "Caption of Fig. 2 (and Fig. 7)",
        tuple(Comparison((of_local,), (of_global,)) for of_global, of_local in _random_by_target(block=-1)),
        reading="The network's own train loss at the end.",
    ),
    Claim(
        "Local guesses let the global loss converge.",
        "Sec. 4.2, Fig. 3 (and Fig. 6)",
        tuple(Comparison((_of(_curve(number, "Local guess"), "train/loss"),)) for number in (3, 6)),
        least=-inf,
        most=CONVERGED,
        reading=f"Read as a train loss at the end of less than {CONVERGED}, a quarter of log 10.",
    ),
    Claim(
        "NTK and random guesses do not let the global loss converge.",
        "Sec. 4.2, Fig. 3 (and Fig. 6)",
        tuple(
            Comparison((_of(_curve(number, label), "train/loss"),))
            for number in (3, 6)
            for label in ("NTK guess", "Random (Gaussian) guess")
        ),
        least=CONVERGED,
        reading=f"Read as a train loss at the end of more than {CONVERGED}, a quarter of log 10.",
    ),
    Claim(
        "Local guesses keep a gap to end-to-end training throughout.",
        "Caption of Fig. 3 (and Fig. 6)",
        tuple(
            Comparison(
                (_of(_curve(number, "Local guess"), loss, part),), (_of(_curve(number, "End-to-end"), loss, part),)
            )
            for number in (3, 6)
            for loss in ("train/loss", "test/loss")
            for part in QUARTERS
        ),
    ),
    Claim(
        "The cosine similarity of local guess and global target is positive.",
        "Sec. 4.4, Figs. 4 and 5 (and 8 and 9)",
        tuple(Comparison((cosine,)) for cosine in _COSINES.values()),
        reading="The mean over training, of each block drawn.",
    ),
    Claim(
        "The cosine similarity of local guess and global target rises with depth.",
        "Sec. 4.4, Figs. 4 and 5 (and 8 and 9)",
        tuple(Comparison((deeper,), (block,)) for block, deeper in _by_depth(_COSINES, *_DYNAMICS)),
        reading="The mean over training, of each block drawn against the one drawn before.",
    ),
    Claim(
        "Learning improves with depth, with every auxiliary network.",
        "Caption of Fig. 4",
        tuple(Comparison((block,), (deeper,)) for block, deeper in _by_depth(_by_block("train/local_loss", None), 4)),
        reading="The local train loss at the end, of each block drawn against the one drawn before.",
    ),
    Claim(
        "Guesses align with the intermediate target more evenly across blocks than with the global one.",
        "Sec. 4.3",
        _rise_beside_intermediate(),
        reading="The mean over training rises less from the first block drawn to the last. Table 5 needs cosine=true.",
    ),
    Claim(
        "The generalization gap is more consistent during training in the space of weights than in that of activities.",
        "Captions of Figs. 5 and 9 (against Figs. 4 and 8)",
        _growth_of_gap(),
        reading="Local test less train loss grows less from the first quarter to the last, of each block drawn.",
    ),
    Claim(
        "Most of the time the CNN auxiliary has the highest cosine similarity.",
        "Sec. 4.4, Figs. 4 and 5 (and 8 and 9)",
        tuple(Comparison((cnn,), (other,)) for cnn, other in _others(_COSINES)),
        of="most",
        reading="The mean over training, of each block drawn.",
    ),
    Claim(
        "Most of the time the CNN auxiliary has the lowest test loss.",
        "Sec. 4.4, Figs. 4 and 5 (and 8 and 9)",
        tuple(Comparison((other,), (cnn,)) for cnn, other in _others(_by_block("test/local_loss", None))),
        of="most",
        reading="At the end of training, of each block drawn.",
    ),
    Claim(
        "Most cosine similarities descend toward the end of training.",
        "Sec. 4.4, Figs. 4 and 5 (and 8 and 9)",
        tuple(
            Comparison((before,), (after,))
            for before, after in zip(_by_block("cosine", THIRD).values(), _by_block("cosine", LATE).values())
        ),
        of="most",
        reading="The third quarter of training against the last.",
    ),
    Claim(
        "Cosine similarities are higher in the space of weights than in that of activities.",
        "Captions of Figs. 5 and 9 (against Figs. 4 and 8)",
        tuple(Comparison((weight,), (activity,)) for weight, activity in _in_both_spaces(ALWAYS)),
        reading="The mean over training, of each block drawn.",
    ),
    Claim(
        "Cosine similarities fall more in the space of weights than in that of activities.",
        "Captions of Figs. 5 and 9 (against Figs. 4 and 8)",
        tuple(
            Comparison((weight, activity_late), (weight_late, activity))
            for (weight, activity), (weight_late, activity_late) in zip(_in_both_spaces(EARLY), _in_both_spaces(LATE))
        ),
        reading="From the first quarter of training to the last, of each block drawn.",
    ),
)
