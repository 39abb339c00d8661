"""Every guess, beside backpropagation, frozen blocks and local learning with the same auxiliary networks."""

from itertools import product

from fglight.studies.study import CONTROLS, Row, Study

PERTURBATIONS = ("weight", "activity")
AUXILIARIES = {"CNN": "aux=cnn", "MLP": "aux=mlp", "linear": "aux=linear"}
WITHOUT_AUXILIARIES = {
    "Gaussian": "gaussian",
    "Rademacher": "rademacher",
    "DFA": "dfa",
    "DRTP": "drtp",
    "Next block's": "next_block",
    "Mixing": "mixing",
}

GUESSES = Study(
    name="guesses",
    title="Guesses",
    question="Does feedback from the global target ever beat local learning with exactly the same auxiliary networks?",
    rows=(
        *CONTROLS,
        *(
            Row(f"Local learning, {words}", f"target=local guess=exact {AUXILIARIES[words]}")
            for words in ("MLP", "linear")
        ),
        *(
            Row(f"{name} guess, {words}, {perturb}", f"guess={guess} {aux} perturb={perturb}")
            for (name, guess), (words, aux), perturb in product(
                (("Local", "local"), ("NTK", "ntk")), AUXILIARIES.items(), PERTURBATIONS
            )
        ),
        *(
            Row(f"{name} guess, {perturb}", f"guess={guess} perturb={perturb}")
            for (name, guess), perturb in product(WITHOUT_AUXILIARIES.items(), PERTURBATIONS)
        ),
        Row("Momentum guess, weight", "guess=momentum perturb=weight"),
    ),
)
