"""What the paper claims, each as comparisons of numbers that runs have."""

from fglight.paper.claims.claim import Claim, Comparison, Quantity
from fglight.paper.claims.of_figures import FIGURE_CLAIMS
from fglight.paper.claims.of_tables import TABLE_CLAIMS

CLAIMS: tuple[Claim, ...] = (*TABLE_CLAIMS, *FIGURE_CLAIMS)

__all__ = ["CLAIMS", "Claim", "Comparison", "Quantity"]
