"""Limit how many large pictures wait for the one thread that decodes them, so that none waits for a minute."""

import math
import time
from collections import Counter
from collections.abc import Hashable, Iterator
from contextlib import contextmanager

from sgn_serve.pictures.errors import TooManyWaiting

MAX_WAITING = 8
"""Most large pictures of different requests that wait, the one that is being decoded included.

The slowest take a second or two each. The last one therefore waits for seconds; behind a request with 16 pictures it
still waits for less than an answer may take. Small pictures find most of the places in the queue free.
"""
_SLOW_SECONDS = 1.0
"""Assumed time to decode one, until it was measured."""
_NEW_SHARE = 0.2
"""Weight of the newest measurement in the running mean."""


class LargePictures:
    """Counts the large pictures that wait for their turn or are being decoded.

    The pictures of one request may wait for each other, however many they are. Only the others' are limited.
    """

    def __init__(self) -> None:
        self._waiting: Counter[Hashable] = Counter()
        self._seconds_each = _SLOW_SECONDS

    @contextmanager
    def wait(self, request: Hashable) -> Iterator[None]:
        """Return a context manager around the wait of one picture for its turn, and around the turn itself.

        Args:
            request: The request that the picture belongs to.

        Raises:
            TooManyWaiting: Too many large pictures of other requests wait.
        """
        waiting = self._waiting.total()
        if waiting - self._waiting[request] >= MAX_WAITING:
            raise TooManyWaiting(max(1, math.ceil(waiting * self._seconds_each)))
        self._waiting[request] += 1
        try:
            yield
        finally:
            self._waiting[request] -= 1
            if not self._waiting[request]:
                del self._waiting[request]

    @contextmanager
    def measure(self) -> Iterator[None]:
        """Return a context manager around the decoding of one picture, in its thread.

        It measures the time, from which TooManyWaiting tells when to come back.
        """
        started = time.perf_counter()
        try:
            yield
        finally:
            seconds = time.perf_counter() - started
            self._seconds_each = (1 - _NEW_SHARE) * self._seconds_each + _NEW_SHARE * seconds
