"""Studies: questions beyond the paper's, as lists of estimators that are trained alike and compared.

Each is data, a row an estimator: its name and its overrides. Sweeps run them and reports show them; no torch is needed.
"""

from fglight.studies.budget import BUDGET
from fglight.studies.continuum import CONTINUUM
from fglight.studies.controls import CONTROLLED
from fglight.studies.guesses import GUESSES
from fglight.studies.study import QUANTITIES, RATES, Row, Study, by_name

__all__ = ["QUANTITIES", "RATES", "STUDIES", "Row", "Study"]

STUDIES = by_name(GUESSES, CONTINUUM, BUDGET, CONTROLLED)
"""All studies, by their names."""
