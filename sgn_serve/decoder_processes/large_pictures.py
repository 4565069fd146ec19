"""Limit how many large pictures wait for the one process that decodes them, so that none waits for a minute."""

import math
from collections import Counter
from collections.abc import Hashable, Iterator
from contextlib import contextmanager

from sgn_serve.pictures.errors import TooManyWaiting

MAX_WAITING = 8
"""Most large pictures of different requests that wait, the one that is being decoded included.

The slowest take a second or two each. The last one therefore waits for seconds; behind a request with 16 pictures it
still waits for less than an answer may take.
"""


class LargePictures:
    """Counts the large pictures that wait for their turn or are being decoded.

    The pictures of one request may wait for each other, however many they are. Only the others' are limited.

    Args:
        most: Most pictures of different requests.
    """

    def __init__(self, most: int = MAX_WAITING) -> None:
        self._most = most
        self._waiting: Counter[Hashable] = Counter()

    def others(self, request: Hashable) -> int:
        """Return how many large pictures of other requests wait."""
        return self._waiting.total() - self._waiting[request]

    @contextmanager
    def wait(self, request: Hashable, seconds_each: float) -> Iterator[None]:
        """Return a context manager around the wait of one picture for its turn, and around the turn itself.

        Args:
            request: The request that the picture belongs to.
            seconds_each: Time that decoding a picture takes, from which TooManyWaiting tells when to come back.

        Raises:
            TooManyWaiting: Too many large pictures of other requests wait.
        """
        if self.others(request) >= self._most:
            raise TooManyWaiting(max(1, math.ceil(self._waiting.total() * seconds_each)))
        self._waiting[request] += 1
        try:
            yield
        finally:
            self._waiting[request] -= 1
            if not self._waiting[request]:
                del self._waiting[request]
