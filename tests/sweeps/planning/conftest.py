"""A machine on which parts of a step take known times."""

import pytest
from planned import Machine

from fglight.sweeps.planning import costs


@pytest.fixture
def machine(monkeypatch):
    monkeypatch.setattr(costs, "Network", Machine)
    monkeypatch.setattr(Machine, "timed", [])
    return Machine
