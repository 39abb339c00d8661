"""What the tests of data sets share."""

import pytest

from fglight.data.sources import FashionMNIST


@pytest.fixture
def no_debian(monkeypatch, tmp_path):
    monkeypatch.setattr(FashionMNIST, "system_folders", (tmp_path / "system",))
