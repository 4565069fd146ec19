"""Objects that live long are left out of garbage collections, until they are looked at again."""

import gc
import weakref
from collections.abc import Iterator

import pytest

from sgn_serve.process.garbage import freeze_long_lived_objects


class Node:
    """An object that refers to itself, so that only a garbage collection frees it."""

    def __init__(self) -> None:
        self.itself = self


@pytest.fixture(autouse=True)
def collections_as_before() -> Iterator[None]:
    before = gc.get_threshold()
    yield
    gc.set_threshold(*before)
    gc.freeze()  # as tests/conftest.py has it


def test_what_is_garbage_is_freed_first_and_the_rest_is_left_out() -> None:
    garbage, kept = Node(), Node()
    freed = weakref.ref(garbage)
    del garbage
    freeze_long_lived_objects()
    assert freed() is None
    assert gc.get_freeze_count() > 0
    assert kept not in gc.get_objects()


def test_what_was_left_out_is_freed_by_the_next_call() -> None:
    """A model that is replaced was left out when it was loaded."""
    model = Node()
    freeze_long_lived_objects()
    freed = weakref.ref(model)
    del model
    gc.collect()
    assert freed() is not None, "a collection does not see it"
    freeze_long_lived_objects()
    assert freed() is None


def test_collections_become_rarer() -> None:
    gc.set_threshold(700, 10, 10)
    freeze_long_lived_objects()
    assert gc.get_threshold()[0] > 700
    assert gc.get_threshold()[1] > 10
