"""Memory that a process has freed goes back to the system, once there is enough of it."""

import asyncio
import ctypes

import pytest

from sgn_serve.process import freed_memory
from sgn_serve.process.freed_memory import FreedMemory, resident_bytes

needs_glibc = pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="needs glibc's malloc_trim")


def leave_holes() -> list[bytes]:
    """Fill 64 MB of the heap with small pieces, free most of them, and return what keeps the rest apart."""
    pieces = [bytes(60_000) for _ in range(1100)]
    return pieces[::50]


@needs_glibc
def test_what_lies_between_pieces_in_use_is_given_back():
    idle = resident_bytes()
    freed = FreedMemory()
    kept = leave_holes()
    before = resident_bytes()
    assert idle is not None
    assert before is not None
    looked = freed.look()
    assert looked == (before >= idle + (16 << 20)), "else the allocator has kept nothing, which is as well"
    assert not looked or (resident_bytes() or 0) < before - (4 << 20)
    assert len(kept) == 22


def test_it_looks_for_growth_and_pauses_where_little_comes_back(monkeypatch):
    megabytes = [100, 110, 80, 95, 97, 90, 97, 96, 97, 97, 97, 97, 81]
    sizes = iter([one << 20 for one in megabytes])
    trims: list[int] = []
    monkeypatch.setattr("ctypes.CDLL", lambda name: type("C", (), {"malloc_trim": staticmethod(trims.append)}))
    monkeypatch.setattr(freed_memory, "resident_bytes", lambda: next(sizes))
    freed = FreedMemory()
    assert [freed.look() for _ in range(3)] == [False, False, False], "10 MB more, less, 15 MB more than the least"
    assert freed.look(), "17 MB more, of which 7 come back"
    assert freed.look(), "17 MB more, of which 1 comes back"
    assert [freed.look() for _ in range(4)] == [False, False, False, True], "three looks are left out"
    assert trims == [0, 0, 0]


def test_a_size_that_cannot_be_read_is_no_size(monkeypatch):
    sizes = iter([100 << 20, 130 << 20, None, 110 << 20, 131 << 20, 131 << 20])
    trims: list[int] = []
    monkeypatch.setattr("ctypes.CDLL", lambda name: type("C", (), {"malloc_trim": staticmethod(trims.append)}))
    monkeypatch.setattr(freed_memory, "resident_bytes", lambda: next(sizes))
    freed = FreedMemory()
    assert [freed.look() for _ in range(3)] == [True, False, True], "30 MB more, 10 MB more, 31 MB more"


def test_it_goes_on_looking(monkeypatch):
    looks = []
    monkeypatch.setattr(freed_memory, "EVERY_SECONDS", 0.01)
    monkeypatch.setattr(FreedMemory, "look", lambda self: looks.append(self))

    async def wait() -> None:
        FreedMemory().keep_giving_back()
        while len(looks) < 3:
            await asyncio.sleep(0.01)

    if hasattr(ctypes.CDLL(None), "malloc_trim"):
        asyncio.run(asyncio.wait_for(wait(), 60))
        assert len(looks) >= 3
