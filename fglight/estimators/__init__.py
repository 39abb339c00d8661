"""Gradient estimation: a target projected on a guess, in the space of activities or of weights.

Knows nothing of Lightning, Hydra or data: it works on any sequence of blocks.
"""

from fglight.estimators.activity import ActivityPerturbation, ActivitySpanPerturbation
from fglight.estimators.estimator import GradientEstimator, Step
from fglight.estimators.forward import ForwardModeEstimator
from fglight.estimators.guesses import (
    ExactGuess,
    FixedNTKGuess,
    GaussianGuess,
    Guess,
    LocalGuess,
    NTKGuess,
    RademacherGuess,
    RandomGuess,
)
from fglight.estimators.perturbations import Perturbation, Unprojected
from fglight.estimators.targets import GlobalTarget, IntermediateTarget, LocalTarget, Target
from fglight.estimators.weight import WeightPerturbation
from fglight.estimators.weight_per_sample import WeightPerSamplePerturbation

__all__ = [
    "ActivityPerturbation",
    "ActivitySpanPerturbation",
    "ExactGuess",
    "FixedNTKGuess",
    "ForwardModeEstimator",
    "GaussianGuess",
    "GlobalTarget",
    "GradientEstimator",
    "Guess",
    "IntermediateTarget",
    "LocalGuess",
    "LocalTarget",
    "NTKGuess",
    "Perturbation",
    "RademacherGuess",
    "RandomGuess",
    "Step",
    "Target",
    "Unprojected",
    "WeightPerSamplePerturbation",
    "WeightPerturbation",
]
