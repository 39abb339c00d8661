"""fglight: forward gradients with informed guesses.

Study, reproduce and extend "Can Forward Gradient Match Backpropagation?" (Fournier et al., ICML 2023).
"""

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import Any

__all__ = ["__version__", "build_estimator", "build_model", "load_config"]

try:
    __version__ = version("fglight")
except PackageNotFoundError:
    __version__ = "not installed"  # a checkout that its train.py runs from


def __getattr__(name: str) -> Any:
    """Load what takes seconds, torch included where it is needed, when it is asked for."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module("fglight.build"), name)
