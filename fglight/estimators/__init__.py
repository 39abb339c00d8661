"""Gradient estimation: a target projected on a guess, in the space of activities or of weights.

Knows nothing of Lightning, Hydra or data: it works on any sequence of blocks.
"""

from fglight.estimators.engines.base import Engine
from fglight.estimators.engines.finite import FiniteDifferences
from fglight.estimators.engines.forward import ForwardMode
from fglight.estimators.engines.reverse import ReverseMode
from fglight.estimators.estimator import ForwardModeEstimator, GradientEstimator
from fglight.estimators.guesses.base import Guess
from fglight.estimators.guesses.dfa import DFAGuess
from fglight.estimators.guesses.drtp import DRTPGuess
from fglight.estimators.guesses.exact import ExactGuess
from fglight.estimators.guesses.frozen import FrozenGuess
from fglight.estimators.guesses.guided import GuidedGuess
from fglight.estimators.guesses.local import LocalGuess
from fglight.estimators.guesses.low_rank import LowRankGuess
from fglight.estimators.guesses.mixing import MixingGuess
from fglight.estimators.guesses.momentum import MomentumGuess
from fglight.estimators.guesses.next_block import NextBlockGuess
from fglight.estimators.guesses.ntk import FixedNTKGuess, NTKGuess
from fglight.estimators.guesses.random import GaussianGuess, RademacherGuess, RandomGuess
from fglight.estimators.result import Step
from fglight.estimators.spaces.activity import ActivityPerturbation, ActivitySpanPerturbation
from fglight.estimators.spaces.base import Perturbation
from fglight.estimators.spaces.everything import Everything, Nothing
from fglight.estimators.spaces.weight import WeightPerturbation
from fglight.estimators.spaces.weight_per_sample import WeightPerSamplePerturbation
from fglight.estimators.targets import DeepSupervision, GlobalTarget, IntermediateTarget, LocalTarget, Target

__all__ = [
    "ActivityPerturbation",
    "ActivitySpanPerturbation",
    "DFAGuess",
    "DRTPGuess",
    "DeepSupervision",
    "Engine",
    "Everything",
    "ExactGuess",
    "FiniteDifferences",
    "FixedNTKGuess",
    "ForwardMode",
    "ForwardModeEstimator",
    "FrozenGuess",
    "GaussianGuess",
    "GlobalTarget",
    "GradientEstimator",
    "Guess",
    "GuidedGuess",
    "IntermediateTarget",
    "LocalGuess",
    "LocalTarget",
    "LowRankGuess",
    "MixingGuess",
    "MomentumGuess",
    "NTKGuess",
    "NextBlockGuess",
    "Nothing",
    "Perturbation",
    "RademacherGuess",
    "RandomGuess",
    "ReverseMode",
    "Step",
    "Target",
    "WeightPerSamplePerturbation",
    "WeightPerturbation",
]
