"""Studies: questions beyond the paper's, as lists of estimators that are trained alike and compared.

Each is data, a row an estimator: its name and its overrides. Sweeps run them and reports show them; no torch is needed.
"""

from fglight.studies.guesses import GUESSES
from fglight.studies.study import HOLDOUT, RATES, Row, Study, by_name

__all__ = ["HOLDOUT", "RATES", "STUDIES", "Row", "Study"]

STUDIES = by_name(GUESSES)
"""All studies, by their names."""
