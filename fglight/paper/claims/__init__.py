"""What the paper claims, each as comparisons of numbers that runs have."""

from fglight.paper.claims.claim import ACCURACY, Claim, Comparison, Quantity
from fglight.paper.claims.figures import FIGURE_CLAIMS
from fglight.paper.claims.tables import TABLE_CLAIMS

CLAIMS: tuple[Claim, ...] = (*TABLE_CLAIMS, *FIGURE_CLAIMS)

__all__ = ["ACCURACY", "CLAIMS", "Claim", "Comparison", "Quantity"]
