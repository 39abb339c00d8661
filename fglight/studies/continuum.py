"""From one directional derivative a step to nearly the exact gradient: what each more of them buys."""

from fglight.studies.study import CONTROLS, Row, Study

WEIGHT = ("network", "block", "tensor", "filter")
ACTIVITY = ("sample", "channel")
SEVERAL = {"mean": "mean", "span": "span", "span stretched": "span guess.rescale=true", "best alone": "max"}

CONTINUUM = Study(
    name="continuum",
    title="From one derivative to the gradient",
    question="What do more directional derivatives a step buy?",
    over=("derivatives",),
    rows=(
        *CONTROLS,
        *(
            Row(
                f"{name} guess, {perturb}, one a {unit}",
                f"guess={guess} {aux}perturb={perturb} perturb.granularity={unit}",
                line=f"{name} guess, {perturb}",
            )
            for name, guess, aux in (("Local", "local", "aux=cnn "), ("Gaussian", "gaussian", ""))
            for perturb, units in (("weight", WEIGHT), ("activity", ACTIVITY))
            for unit in units
        ),
        *(
            Row(
                f"Gaussian guess, weight, {k} directions a tensor, {words}",
                f"guess=gaussian perturb=weight guess.directions={k} guess.combine={combine}",
                line=f"Gaussian guess, 4 and 16 directions a tensor, {words}",
            )
            for words, combine in SEVERAL.items()
            for k in (4, 16)
        ),
    ),
)
