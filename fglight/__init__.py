"""fglight: forward gradients with informed guesses.

Study, reproduce and extend "Can Forward Gradient Match Backpropagation?" (Fournier et al., ICML 2023).
"""

from fglight.config import build_estimator, build_model, load_config

__all__ = ["build_estimator", "build_model", "load_config"]
