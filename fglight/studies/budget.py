"""What accuracy each estimator reaches for what its step costs, by four measures of cost."""

from itertools import product

from fglight.studies.controls import ALL_THREE, CONTROLLED
from fglight.studies.study import Row, Study

UNITS = (("weight", "tensor"), ("weight", "filter"), ("activity", "sample"), ("activity", "channel"))
GUESSES = {
    "Local guess": "guess=local aux=cnn",
    "Local guess, three networks' span": "guess=local guess.combine=span aux=several",
    "Gaussian guess": "guess=gaussian",
    "DRTP guess": "guess=drtp",
}

BUDGET = Study(
    name="budget",
    title="Accuracy by budget",
    question="Which estimator is the best for what a step may take?",
    over=("derivatives", "forwards", "memory", "seconds"),
    rows=(
        *CONTROLLED.rows,
        Row("Backpropagation, checkpointed", "guess=exact checkpointing=true"),
        ALL_THREE,
        *(
            Row(
                f"{name}, {perturb}, one a {unit}",
                f"{guess} perturb={perturb} perturb.granularity={unit}",
                line=f"{name}, {perturb}",
            )
            for (name, guess), (perturb, unit) in product(GUESSES.items(), UNITS)
        ),
    ),
)
