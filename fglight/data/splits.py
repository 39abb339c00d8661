"""Splits of a data set, the same whatever the seed of the run."""

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from fglight.errors import ConfigError

_SPLIT_SEED = 0  # never the run's seed: every run of a search must be judged on the same images


def split(labels: Sequence[int] | np.ndarray | Tensor, fraction: float) -> tuple[np.ndarray, np.ndarray]:
    """Split samples in two, the same way for the same labels every time.

    Args:
        labels: of each sample, a row a sample. Of classes, (samples,) of integers, both parts get the same share.
        fraction: share of the samples that goes into the second part.

    Returns:
        The indices of the first and of the second part, both ascending.

    Raises:
        ValueError: a part would be empty, or without some class.
    """
    from sklearn.model_selection import train_test_split  # takes seconds, and few data sets are split

    labels = np.asarray(labels)
    classes = labels if labels.ndim == 1 and np.issubdtype(labels.dtype, np.integer) else None
    parts = train_test_split(np.arange(len(labels)), test_size=fraction, stratify=classes, random_state=_SPLIT_SEED)
    first, second = map(np.sort, parts)
    return first, second


def holdout_split(
    labels: Sequence[int] | np.ndarray | Tensor, holdout: float, setting: str = "holdout"
) -> tuple[np.ndarray, np.ndarray]:
    """Split samples into those to train on and those held out by ``data.holdout``, or another setting; see ``split``.

    Raises:
        ConfigError: a part would be empty, or without some class.
    """
    try:
        return split(labels, holdout)
    except ValueError as error:
        raise ConfigError(
            f"data.{setting} must be a fraction that keeps and holds out a sample of every class, got {holdout} "
            f"({error})"
        ) from error
