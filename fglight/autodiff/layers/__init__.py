"""Layers: their uses in a body, and the kinds of which the derivatives are known in closed form."""

from fglight.autodiff.layers import normalization, unfolded  # noqa: F401 (they say what is known)
