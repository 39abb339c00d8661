"""Runs of studies."""

import pytest
from study_runs import Runs


@pytest.fixture
def runs(tmp_path):
    return Runs(tmp_path / "runs")
