import pytest

from sgn_serve.decoder_processes.fair_queue import FairQueue


def test_requests_take_turns_and_keep_their_own_order() -> None:
    queue: FairQueue[str] = FairQueue()
    for item in ("a1", "a2", "a3", "b1", "c1", "c2"):
        queue.put(item[0], item)
    assert len(queue) == 6
    queue.put("b", "b2")
    assert [queue.pop() for _ in range(len(queue))] == ["a1", "b1", "c1", "a2", "b2", "c2", "a3"]
    with pytest.raises(IndexError):
        queue.pop()


def test_what_is_removed_does_not_come() -> None:
    queue: FairQueue[str] = FairQueue()
    queue.put("a", "a1")
    queue.put("b", "b1")
    queue.remove("a", "a1")
    queue.remove("a", "a1")
    queue.remove("c", "c1")
    assert queue.pop() == "b1"
    assert len(queue) == 0
