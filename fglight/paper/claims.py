"""What the paper claims, each as a comparison of cells: one part of the cell changes, and accuracy with it."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

from fglight.cell import Cell
from fglight.paper import published, unprinted

Parts = Mapping[str, Any]


@dataclass(frozen=True)
class Claim:
    """Each cell that matches ``better`` beats the same cell with ``worse`` put in; a tuple stands for all its values.

    Attributes:
        text: The claim in one sentence.
        source: Where the paper makes it.
        margin: Points by which the better must lead; negative where the worse may lead by as much.
        most: Whether the paper says so of most comparisons only, rather than of all.
        reading: How the sentence was turned into a comparison, where that is a choice.
    """

    text: str
    source: str
    better: Parts
    worse: Parts
    margin: float = 0
    most: bool = False
    reading: str = ""

    def pairs(self) -> list[tuple[Cell, Cell]]:
        """Return the (better, worse) cells, both among the paper's."""
        cells = {row.cell: None for row in published() + unprinted()}
        changes = [
            dict(zip(self.worse, values)) for values in product(*(_each(value) for value in self.worse.values()))
        ]
        found = [
            (cell, replace(cell, **change))
            for cell in cells
            if all(getattr(cell, part) in _each(value) for part, value in self.better.items())
            for change in changes
        ]
        return [pair for pair in found if pair[1] in cells]


def _each(value: object) -> tuple[Any, ...]:
    return value if isinstance(value, tuple) else (value,)


AUX, RANDOM, BOTH = ("cnn", "mlp", "linear"), ("gaussian", "rademacher"), ("activity", "weight")
LOCAL_GUESS: Parts = {"target": "global", "guess": "local", "aux": AUX, "perturb": BOTH}
RANDOM_GUESS: Parts = {"target": "global", "guess": RANDOM}
END_TO_END: Parts = {"target": "global", "guess": "exact", "width": 1}

CLAIMS: tuple[Claim, ...] = (
    Claim(
        "Local guesses outperform random guesses.",
        "Sec. 4.2, Tables 2 and 3; Sec. 4.5, Table 7",
        better={**LOCAL_GUESS, "width": 1},
        worse={"guess": RANDOM, "aux": ""},
    ),
    Claim(
        "Local guesses improve on NTK guesses.",
        "Caption of Table 3; Sec. 4.2, Table 2; Sec. 4.5, Table 7",
        better={**LOCAL_GUESS, "width": 1},
        worse={"guess": "ntk"},
    ),
    Claim(
        "NTK guesses improve on random guesses in most cases.",
        "Sec. 4.2, Tables 2 and 3; Sec. 4.5, Table 7",
        better={**LOCAL_GUESS, "guess": "ntk", "width": 1},
        worse={"guess": RANDOM, "aux": ""},
        most=True,
    ),
    Claim(
        "Local guesses do not close the gap to end-to-end training.",
        "Sec. 4.2 and Sec. 5, Tables 2, 3 and 7",
        better=END_TO_END,
        worse={"guess": "local", "aux": AUX, "perturb": BOTH},
    ),
    Claim(
        "With local guesses, weight perturbation outperforms activity perturbation.",
        "Captions of Tables 2 and 3; Sec. 4.2; Sec. 4.5, Table 7",
        better={**LOCAL_GUESS, "width": 1, "perturb": "weight"},
        worse={"perturb": "activity"},
    ),
    Claim(
        "Activity perturbation has an advantage over weight perturbation for random guesses.",
        "Caption of Table 3 (8 blocks, CIFAR-10)",
        better={**RANDOM_GUESS, "data": "cifar10", "blocks": 8, "width": 1, "perturb": "activity"},
        worse={"perturb": "weight"},
        reading="The numbers behind this sentence are not printed in Table 3; Table 7 has the opposite on other data.",
    ),
    Claim(
        "The MLP is the best local guess with 16 blocks.",
        "Caption of Table 2",
        better={**LOCAL_GUESS, "aux": "mlp", "blocks": 16, "width": 1, "data": ("cifar10", "imagenet32")},
        worse={"aux": ("cnn", "linear")},
    ),
    Claim(
        "Training in 8 blocks beats training in 16, for the same target and guess.",
        "Sec. 4.2, Tables 2 and 3; Sec. 4.5, Table 7",
        better={"target": "global", "guess": ("local", "ntk", *RANDOM), "width": 1, "blocks": 8, "perturb": BOTH},
        worse={"blocks": 16},
    ),
    Claim(
        "Random guesses of the local target do worse than of the global target.",
        "Sec. 4.3, Table 4 (and Tables 7 and 9)",
        better={**RANDOM_GUESS, "width": 1},
        worse={"target": "local", "aux": AUX},
    ),
    Claim(
        "The intermediate target does worse than the global one.",
        "Sec. 4.3, Table 5 (against Tables 2 and 3)",
        better={"data": "cifar10", "target": "global", "guess": ("local", "ntk"), "aux": AUX, "width": 1},
        worse={"target": "intermediate"},
    ),
    Claim(
        "The intermediate target does worse than the global one, for random guesses.",
        "Sec. 4.3, Table 5 (against Table 2)",
        better={**RANDOM_GUESS, "data": "cifar10", "width": 1},
        worse={"target": "intermediate", "aux": AUX},
    ),
    Claim(
        "The intermediate target does worse than the local one.",
        "Sec. 4.3, Table 5 (against Table 4)",
        better={"data": "cifar10", "target": "local", "guess": "exact", "aux": AUX, "width": 1},
        worse={"target": "intermediate", "guess": "local", "perturb": BOTH},
        reading="A local guess of the local target is local learning.",
    ),
    Claim(
        "The intermediate target does worse than the local one, for random guesses.",
        "Sec. 4.3, Table 5 (against Table 4)",
        better={"data": "cifar10", "target": "local", "guess": RANDOM, "aux": AUX, "width": 1},
        worse={"target": "intermediate"},
    ),
    Claim(
        "Projecting on the span of a batch of local guesses improves on a single one marginally.",
        "Sec. 4.4, Table 6 (against Tables 2 and 3)",
        better={**LOCAL_GUESS, "data": "cifar10", "width": 1, "perturb": "activity"},
        worse={"perturb": "activity_span"},
        margin=-3,
        reading="Marginal is read as by less than 3 points.",
    ),
    Claim(
        "Projecting on the span is on par with local learning or worse.",
        "Sec. 4.4, Table 6 (against Table 4)",
        better={"data": "cifar10", "target": "local", "guess": "exact", "aux": AUX, "width": 1},
        worse={"target": "global", "guess": "local", "perturb": "activity_span"},
        margin=-2,
        reading="On par is read as ahead by less than 2 points.",
    ),
    Claim(
        "Projecting on the span is far from end-to-end training.",
        "Sec. 4.4, Table 6 (against Tables 2 and 3)",
        better={**END_TO_END, "data": "cifar10"},
        worse={"guess": "local", "aux": AUX, "perturb": "activity_span"},
        margin=2,
        reading="Far is read as by more than 2 points.",
    ),
    Claim(
        "Local guesses gain from width.",
        "Sec. 4.5, Table 8 (with Table 2 for width 1)",
        better={**LOCAL_GUESS, "data": "cifar10", "width": 4},
        worse={"width": (0.5, 1, 2)},
        reading="Width 4 against each smaller one.",
    ),
    Claim(
        "Random guesses lose from width.",
        "Sec. 4.5, Table 8 (with Table 2 for width 1)",
        better={**RANDOM_GUESS, "data": "cifar10", "blocks": 16, "width": (0.5, 1, 2)},
        worse={"width": 4},
        reading="Width 4 against each smaller one.",
    ),
)
