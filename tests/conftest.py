"""Settings of all tests."""

import pytest
import torch

# The networks here are so small that a second thread costs more than it gives, and far more on a busy machine.
torch.set_num_threads(1)


def pytest_addoption(parser):
    parser.addoption(
        "--device", default="cpu", help="where the gradients of tests/estimators/test_parity.py are computed"
    )


@pytest.fixture(scope="session")
def device(request):
    return torch.device(request.config.getoption("--device"))
