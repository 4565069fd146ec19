"""Work of a lost worker is done again, whatever the reason that Ray gives."""

import importlib.util
from typing import Any

import pytest

from sgn_serve.common.ray_cluster import TRIES, Cluster
from training.common.ray_tasks import OnRayError, Tasks, Words

pytestmark = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed")


def tasks(monkeypatch: pytest.MonkeyPatch, outcomes: list[Any], notes: list[str]) -> Tasks[str]:
    """Return tasks whose attempts have these outcomes, in order: an exception, or an answer."""
    import ray

    def get(reference: Any) -> Any:
        outcome = outcomes.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    monkeypatch.setattr(ray, "wait", lambda running, **_: (running[:1], running[1:]))
    monkeypatch.setattr(ray, "get", get)
    monkeypatch.setattr(Cluster, "head_answers", lambda self: True)
    words = Words[str](lambda work: f"work {work}", "give less", notes.append)
    made: Tasks[str] = Tasks(Cluster("nowhere"), lambda work: object(), words)
    made.submit("a")
    return made


def losses() -> list[Exception]:
    """Return what Ray raises for a lost worker, and for a full object store, in and outside of a task."""
    from ray import exceptions

    full = exceptions.ObjectStoreFullError("the store is full")
    return [
        exceptions.WorkerCrashedError(),
        exceptions.OutOfMemoryError("its machine"),
        exceptions.OutOfDiskError("the disk is full too"),
        exceptions.RayTaskError("run", "traceback", full),
    ]


def test_a_lost_worker_and_a_full_store_are_tried_again(monkeypatch):
    for loss in losses():
        notes: list[str] = []
        assert tasks(monkeypatch, [loss, "answer"], notes).next() == ("a", "answer")
        (note,) = notes
        assert note.startswith("a worker is lost (")
        assert note.endswith("), and what it had is done again: work a")


def test_what_ends_every_worker_is_named(monkeypatch):
    from ray import exceptions

    made = tasks(monkeypatch, [exceptions.OutOfMemoryError("")] * TRIES, [])
    message = r"^3 workers have ended at work a \(its machine ran out of memory\); give less$"
    with pytest.raises(OnRayError, match=message):
        made.next()


def test_a_mistake_in_a_task_is_not_tried_again(monkeypatch):
    from ray import exceptions

    mistake = exceptions.RayTaskError("run", "traceback", KeyError("x"))
    with pytest.raises(exceptions.RayTaskError):
        tasks(monkeypatch, [mistake], []).next()
