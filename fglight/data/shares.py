"""Which images of an epoch make up each batch, and which of these are one process's share."""

from fglight.errors import ConfigError


def batch_shares(
    count: int, batch_size: int, *, training: bool, processes: int = 1, rank: int = 0
) -> list[tuple[int, int]]:
    """Cut an epoch into batches, and each batch into nearly equal shares for processes that work on it together.

    Batch normalisation has no variance to divide by where a process has a single image: for training, a last batch that
    leaves one with less than two is left out. For evaluation, one that leaves a process with none is joined to the
    batch before.

    Args:
        count: number of images.
        batch_size: images a batch, over all processes; the last one may have fewer.
        training: whether these are batches for training.
        processes: number of processes.
        rank: the process, from 0 up.

    Returns:
        First image and one past the last image of this process in each batch, as places in the epoch's order.

    Raises:
        ConfigError: there are too few images for a batch of which every process has a share.
    """
    least = 2 * processes if training else processes
    if count < least:
        kind, settings = ("training", "data.train_images, ") if training else ("test", "")
        raise ConfigError(
            f"a {kind} set must have {least} samples or more on trainer.devices={processes}, got {count}: "
            f"{settings}data.holdout and the data set itself say how many there are"
        )
    bounds = [(start, min(start + batch_size, count)) for start in range(0, count, batch_size)]
    rest = bounds[-1][1] - bounds[-1][0]
    if training and rest < least:
        bounds.pop()
    elif rest < least:
        bounds[-2:] = [(bounds[-2][0], count)]
    return [
        (start + rank * (stop - start) // processes, start + (rank + 1) * (stop - start) // processes)
        for start, stop in bounds
    ]
