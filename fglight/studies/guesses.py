"""Every guess, beside backpropagation, frozen blocks and local learning with the same auxiliary networks."""

from itertools import product

from fglight.studies.controls import ALL_THREE, CONTROLLED
from fglight.studies.study import Row, Study

PERTURBATIONS = ("weight", "activity")
AUXILIARIES = {"CNN": "cnn", "MLP": "mlp", "linear": "linear"}
COMBINED = ("sum", "mean", "span", "max")
"""What becomes of several auxiliary networks: the sum of their losses, or of a direction from each of them."""

FROM_AUXILIARIES = {"Local": "local", "NTK": "ntk", "Guided": "guided"}
WITHOUT = {
    "Gaussian": "gaussian",
    "Rademacher": "rademacher",
    "DFA": "dfa",
    "DRTP": "drtp",
    "Next block's": "next_block",
    "Mixing": "mixing",
}
ONLY_WEIGHT = {"Low-rank": "low_rank", "Momentum": "momentum"}

GUESSES = Study(
    name="guesses",
    title="Guesses",
    question="Does feedback from the global target ever beat local learning with exactly the same auxiliary networks?",
    rows=(
        *CONTROLLED.rows,
        ALL_THREE,
        *(
            Row(f"{name} guess, {words}, {perturb}", f"guess={guess} aux={aux} perturb={perturb}")
            for (name, guess), (words, aux), perturb in product(
                FROM_AUXILIARIES.items(), AUXILIARIES.items(), PERTURBATIONS
            )
        ),
        *(
            Row(
                f"Local guess, all three, {combine}, {perturb}",
                f"guess=local guess.combine={combine} aux=several perturb={perturb}",
            )
            for combine, perturb in product(COMBINED, PERTURBATIONS)
        ),
        *(
            Row(f"{name} guess, {perturb}", f"guess={guess} perturb={perturb}")
            for (name, guess), perturb in product(WITHOUT.items(), PERTURBATIONS)
        ),
        *(Row(f"{name} guess, weight", f"guess={guess} perturb=weight") for name, guess in ONLY_WEIGHT.items()),
    ),
)
