"""Splits of a data set, the same whatever the seed of the run."""

from collections.abc import Sequence

import numpy as np

from fglight.errors import ConfigError

_SPLIT_SEED = 0  # never the run's seed: every run of a search must be judged on the same images


def stratified_split(labels: Sequence[int] | np.ndarray, fraction: float) -> tuple[np.ndarray, np.ndarray]:
    """Split images in two with the same share of every class, the same way for the same labels every time.

    Args:
        labels: class of each image, (images,).
        fraction: share of the images that goes into the second part.

    Returns:
        The indices of the first and of the second part, both ascending.

    Raises:
        ValueError: a part would be left without some class.
    """
    return random_split(len(labels), fraction, np.asarray(labels))


def random_split(count: int, fraction: float, labels: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Split samples in two, the same way every time.

    Args:
        count: number of samples.
        fraction: share of the samples that goes into the second part.
        labels: classes, (samples,), of which both parts get the same share; None for any split.

    Returns:
        The indices of the first and of the second part, both ascending.

    Raises:
        ValueError: a part would be empty, or without some class.
    """
    from sklearn.model_selection import train_test_split  # takes seconds, and few data sets are split

    first, second = train_test_split(np.arange(count), test_size=fraction, stratify=labels, random_state=_SPLIT_SEED)
    return np.sort(first), np.sort(second)


def holdout_split(labels: Sequence[int] | np.ndarray, holdout: float) -> tuple[np.ndarray, np.ndarray]:
    """Split the training images into those to train on and those held out by ``data.holdout``.

    Args:
        labels: class of each training image, (images,).
        holdout: fraction of the images to hold out, above 0.

    Returns:
        The indices of the images to train on and of those held out, both ascending.

    Raises:
        ConfigError: the fraction leaves a part without an image of every class.
    """
    try:
        return stratified_split(labels, holdout)
    except ValueError as error:
        raise ConfigError(
            f"data.holdout={holdout} is not possible: accepted is a fraction that keeps and holds out an image of "
            f"every class ({error})"
        ) from error
