"""fglight: forward gradients with informed guesses.

Study, reproduce and extend "Can Forward Gradient Match Backpropagation?" (Fournier et al., ICML 2023).
"""

from importlib import import_module
from typing import Any

__all__ = ["build_estimator", "build_model", "load_config"]


def __getattr__(name: str) -> Any:
    """Load what takes seconds, torch included where it is needed, when it is asked for."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module("fglight.build"), name)
