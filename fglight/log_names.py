"""The names of what runs log, in ``metrics.csv`` and on Weights & Biases."""

ACCURACY, TRAIN_LOSS, TEST_LOSS = "test/accuracy", "train/loss", "test/loss"
"""Of the whole network, after each epoch."""
LOCAL_LOSS = "local_loss"
"""The loss of an auxiliary network, of training and of testing, by block."""
COSINE = "cosine"
"""Cosine similarity of guess and target (Eq. 6), by block, every few steps."""
ALIGNMENT = "alignment"
"""Cosine similarity of estimate and exact gradient, by block, every few steps."""
DERIVATIVES, EXACT_DERIVATIVES = "derivatives/taken", "derivatives/exact"
"""Directional derivatives a step takes, and how many of them are along a single number."""
FORWARDS, MEMORY = "costs/forwards", "costs/memory"
"""FLOPs of a step, in forward passes; its peak memory in bytes."""
FORWARD_MODE = "costs/forward_mode"
"""FLOPs of the same step in forward mode, in forward passes: what the estimator costs as a forward gradient."""


def of_split(split: str, metric: str) -> str:
    """The name of a metric of ``train`` or ``test``."""
    return f"{split}/{metric}"


def of_block(metric: str, block: int) -> str:
    """The name of what a block has of a metric."""
    return f"{metric}/block{block}"
