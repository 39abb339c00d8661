"""Every image of an epoch goes to one process, and no process is left with too few."""

import pytest

from fglight.data.shares import batch_shares
from fglight.errors import ConfigError


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("processes", [1, 2, 3])
@pytest.mark.parametrize("count", [24, 25, 26, 29, 31])
def test_shares_make_up_the_batches_of_one_process(count, processes, training):
    shares = [batch_shares(count, 12, training=training, processes=processes, rank=r) for r in range(processes)]
    smallest = 2 if training else 1
    covered = []
    for parts in zip(*shares, strict=True):  # as many batches in every process
        sizes = [stop - start for start, stop in parts]
        assert min(sizes) >= smallest
        assert max(sizes) - min(sizes) <= 1
        covered += [place for start, stop in parts for place in range(start, stop)]
    left_out = count % 12 if training and count % 12 < 2 * processes else 0
    assert covered == list(range(count - left_out))


@pytest.mark.parametrize("processes", [1, 2, 3])
def test_too_few_images_for_a_batch_are_refused_in_one_line(processes):
    for training, least in ((True, 2 * processes), (False, processes)):
        assert len(batch_shares(least, 12, training=training, processes=processes)) == 1
        words = f"^a {'training' if training else 'test'} set must have {least} samples or more .*got {least - 1}: "
        with pytest.raises(ConfigError, match=rf"{words}.*data\.holdout"):
            batch_shares(least - 1, 12, training=training, processes=processes)
