"""fglight: forward gradients with informed guesses.

Study, reproduce and extend "Can Forward Gradient Match Backpropagation?" (Fournier et al., ICML 2023).
"""

from typing import Any

__all__ = ["build_estimator", "build_model", "load_config"]


def __getattr__(name: str) -> Any:
    """Load what takes seconds, torch included, when it is asked for."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from fglight import build, config

    return getattr(config if name == "load_config" else build, name)
