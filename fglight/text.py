"""Numbers in sentences, and names."""

import re


def plain(name: str) -> str:
    """A name in characters, and not more of them, that names of runs may have."""
    return re.sub(r"[^\w.+-]+", "_", name)[:64]


def counted(number: int | str, noun: str) -> str:
    """A number of things: ``1 epoch``, ``3 epochs``."""
    return f"{number} {noun}{'' if str(number) == '1' else 's'}"


def measured(metric: str, value: float) -> str:
    """The value of a metric: accuracies in percent, as the paper has them, all others as they are."""
    return f"{100 * value:.1f} %" if metric == "accuracy" else f"{value:.4g}"
