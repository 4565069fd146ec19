"""The order in which waiting pictures are decoded. Time is counted, not measured."""

import heapq
from collections.abc import Callable
from itertools import count

import pytest

from sgn_serve.decoder_processes.decoder import QUICK_CPU_SECONDS, SMALL_CPU_SECONDS
from sgn_serve.decoder_processes.lane import LONGER_WEIGHT, QUICK_WEIGHT
from sgn_serve.decoder_processes.turns import Class, Share, Turns

QUICK, LONGER = Class.QUICK, Class.LONGER


def make_turns() -> Turns[str]:
    """Return a queue with the shares of the service."""
    return Turns(Share(QUICK_WEIGHT, QUICK_CPU_SECONDS), Share(LONGER_WEIGHT, SMALL_CPU_SECONDS))


def used(
    turns: Turns[str], seconds: dict[Class, float], pictures: int, refill: Callable[[], None]
) -> dict[Class, float]:
    """Return the time that each class gets of a process that decodes some pictures, given what one takes."""
    got = dict.fromkeys(Class, 0.0)
    for _ in range(pictures):
        refill()
        kind, _ = turns.pop()
        got[kind] += seconds[kind]
        turns.settle(kind, seconds[kind])
    return got


def test_one_that_was_not_tried_yet_comes_before_those_that_take_longer() -> None:
    turns = make_turns()
    for number in range(32):
        turns.put(LONGER, number, f"long {number}")
    assert turns.pop() == (LONGER, "long 0")
    turns.put(QUICK, "new", "new")
    assert turns.pop() == (QUICK, "new")
    assert turns.pop() == (LONGER, "long 1")
    assert len(turns) == 30


@pytest.mark.parametrize("seconds", [0.0005, QUICK_CPU_SECONDS])
def test_a_flood_of_either_class_leaves_the_other_its_share(seconds: float) -> None:
    turns, numbers = make_turns(), count()

    def refill() -> None:
        for kind in (QUICK, LONGER):
            turns.put(kind, next(numbers), "picture")

    got = used(turns, {QUICK: seconds, LONGER: SMALL_CPU_SECONDS}, 5000, refill)
    assert got[QUICK] / got[LONGER] == pytest.approx(QUICK_WEIGHT / LONGER_WEIGHT, rel=0.1)


def test_a_class_alone_gets_all_the_time_and_owes_none_of_it() -> None:
    for alone, other in ((QUICK, LONGER), (LONGER, QUICK)):
        turns = make_turns()
        for number in range(1000):
            turns.put(alone, number, "alone")
        assert used(turns, dict.fromkeys(Class, 0.06), 900, lambda: None)[alone] == pytest.approx(54)
        for number in range(100):
            turns.put(other, number, "other")
        first = [turns.pop()[0] for _ in range(40)]
        assert alone in first, "the other one has not saved up the time in which it did not wait"
        assert other in first, "the one that was alone is not ahead for ever"


def test_time_that_was_not_taken_is_given_back() -> None:
    turns = make_turns()
    for number in range(3):
        turns.put(QUICK, number, f"quick {number}")
        turns.put(LONGER, number, f"long {number}")
    assert turns.pop() == (QUICK, "quick 0")
    assert turns.pop() == (LONGER, "long 0")
    turns.settle(LONGER, 0)
    turns.settle(QUICK, 0)
    assert turns.pop() == (QUICK, "quick 1")
    assert turns.pop() == (LONGER, "long 1"), "which waits until many quick ones were decoded otherwise"


def test_what_is_removed_does_not_come() -> None:
    turns = make_turns()
    turns.put(QUICK, "a", "a1")
    turns.put(QUICK, "b", "b1")
    turns.put(LONGER, "a", "a2")
    turns.remove(QUICK, "a", "a1")
    turns.remove(LONGER, "c", "c1")
    turns.remove(LONGER, "a", "a2")
    assert turns.pop() == (QUICK, "b1")
    assert not len(turns)
    with pytest.raises(IndexError):
        turns.pop()


@pytest.mark.parametrize("processes", [1, 2, 4])
def test_a_small_picture_waits_for_short_times_only(processes: int) -> None:
    """Decode 32 pictures that use up every limit, and a small one that comes last, in processes that count time.

    Tried one after the other with the limit of small pictures, they would take 1.9 s of a process.
    """
    turns = make_turns()
    for number in range(32):
        turns.put(QUICK, number, f"costly {number}")
    turns.put(QUICK, "small", "small")
    free = [(0.0, number) for number in range(processes)]
    order = []
    while len(turns):
        now, number = heapq.heappop(free)
        kind, item = turns.pop()
        if item == "small":
            assert now * processes < 0.5
        takes = {QUICK: QUICK_CPU_SECONDS, LONGER: SMALL_CPU_SECONDS}[kind]
        turns.settle(kind, takes)
        if kind is QUICK and item != "small":
            turns.put(LONGER, item, item)  # a little early, which only makes the small one wait longer
        else:
            order.append(item)
        heapq.heappush(free, (now + takes, number))
    assert order.index("small") <= 4
    assert sorted(order) == sorted(["small", *(f"costly {number}" for number in range(32))])
