"""Whose large pictures may wait for the one thread that decodes them, so that none of them waits for a minute."""

import math
import time
from collections import Counter
from collections.abc import Hashable, Iterator
from contextlib import contextmanager

from sgn_serve.refusals import Overloaded

MAX_WAITING = 8
"""Large pictures of different requests, the one that is decoded counted. The slowest take a second or two each: so the
last waits for seconds, and behind a request of 16 still for less than an answer may take; and small pictures find most
of the queue's places free."""
_SLOW_SECONDS = 1.0
"""What one takes, until that was measured."""
_NEW_SHARE = 0.2
"""Weight of the newest measurement in the running mean."""


class LargePictures:
    """Those that wait for their turn, or are being decoded.

    The pictures of one request may wait for each other, however many they are, if the others' are few enough.
    """

    def __init__(self) -> None:
        self._waiting: Counter[Hashable] = Counter()
        self._seconds_each = _SLOW_SECONDS

    @contextmanager
    def wait(self, request: Hashable) -> Iterator[None]:
        """Around the wait for a turn and the turn itself, of one picture of a request. raises Overloaded"""
        waiting = self._waiting.total()
        if waiting - self._waiting[request] >= MAX_WAITING:
            raise Overloaded(max(1, math.ceil(waiting * self._seconds_each)), "large pictures")
        self._waiting[request] += 1
        try:
            yield
        finally:
            self._waiting[request] -= 1
            if not self._waiting[request]:
                del self._waiting[request]

    @contextmanager
    def measure(self) -> Iterator[None]:
        """Around the decoding of one, in its thread: how soon the others have their turn follows from it."""
        started = time.perf_counter()
        try:
            yield
        finally:
            seconds = time.perf_counter() - started
            self._seconds_each = (1 - _NEW_SHARE) * self._seconds_each + _NEW_SHARE * seconds
