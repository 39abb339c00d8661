"""Estimates in single precision and bfloat16."""

import pytest
import torch
import torch.nn.functional as F
from helpers import (
    assert_close,
    estimator_of,
    every_way,
    granular,
    tapped_blocks,
)


@pytest.mark.parametrize("guess", ["exact", "local", "gaussian"])
@every_way
def test_lower_precision(perturb, granularity, guess):
    """Single precision, bfloat16 autocast and bfloat16 parameters give about what double precision gives."""

    def estimate(dtype, autocast=False):
        blocks, (images, labels) = tapped_blocks(batch=16)
        blocks = [block.to(dtype) for block in blocks]
        estimator = estimator_of(granular(granularity), guess=guess, perturb=perturb)
        generator = torch.Generator().manual_seed(1)
        if guess == "gaussian":
            estimator.guess.sample = lambda like: torch.randn(like.shape, generator=generator, dtype=torch.float64).to(
                like
            )
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            step = estimator.estimate(blocks, images.to(dtype), labels, cosine=True)
        assert step.loss.isfinite()
        assert step.cosine is None or step.cosine.isfinite().all()
        parameters = [p for block in blocks for p in block.body.parameters()]
        assert {p.grad.dtype for p in parameters} == {dtype}
        return torch.cat([p.grad.double().flatten() for p in parameters])

    double = estimate(torch.float64)
    assert_close(estimate(torch.float32), double, 1e-3)
    for low in (estimate(torch.float32, autocast=True), estimate(torch.bfloat16)):
        assert low.isfinite().all()
        assert F.cosine_similarity(low, double, dim=0) > 0.9
