"""Memory goes back to the system once a crowd of connections has gone, and not for a few of them."""

import pytest

from sgn_serve.process.freed_memory import CROWD, CrowdMemory


@pytest.fixture
def trims(monkeypatch) -> list[int]:
    """Return a list that grows with each trim."""
    made: list[int] = []
    memory_trim = CrowdMemory()._trim
    assert memory_trim is None or memory_trim(0) in (0, 1)
    monkeypatch.setattr("ctypes.CDLL", lambda name: type("C", (), {"malloc_trim": staticmethod(made.append)}))
    return made


def leave(memory: CrowdMemory, connections: int) -> None:
    for left in reversed(range(connections)):
        memory.left(left)


def test_a_crowd_that_leaves_is_followed_by_one_trim(trims, monkeypatch):
    now = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    memory = CrowdMemory()
    leave(memory, CROWD - 1)
    assert trims == []
    leave(memory, 390)
    assert trims == [0]
    leave(memory, 390)
    assert trims == [0], "not twice within a second"
    now[0] += 2
    memory.left(0)
    assert trims == [0, 0]
    memory.left(0)
    assert trims == [0, 0]


def test_a_crowd_that_stays_is_left_alone(trims):
    memory = CrowdMemory()
    for _ in range(1000):
        memory.left(300)
    assert trims == []
