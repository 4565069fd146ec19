"""Limit how much of the input is in memory."""

import asyncio
from collections import deque


class Window:
    """A semaphore on pictures and on bytes of their files. Waiters are served in order of arrival.

    A request larger than the whole window is granted once the window is empty.

    Args:
        pictures: Most pictures.
        file_bytes: Most bytes.
    """

    def __init__(self, pictures: int, file_bytes: int):
        self._most = pictures, file_bytes
        self._pictures = self._bytes = 0
        self._waiting: deque[tuple[int, int, asyncio.Future[None]]] = deque()

    async def take(self, pictures: int, file_bytes: int) -> None:
        """Wait for room, and take it."""
        if self._waiting or not self._fits(pictures, file_bytes):
            turn = asyncio.get_running_loop().create_future()
            self._waiting.append((pictures, file_bytes, turn))
            await turn
            return
        self._add(pictures, file_bytes)

    def give(self, pictures: int, file_bytes: int) -> None:
        """Give room back."""
        self._add(-pictures, -file_bytes)
        while self._waiting and self._fits(*self._waiting[0][:2]):
            more, more_bytes, turn = self._waiting.popleft()
            if not turn.done():
                self._add(more, more_bytes)
                turn.set_result(None)

    def _fits(self, pictures: int, file_bytes: int) -> bool:
        most_pictures, most_bytes = self._most
        has_pictures = not self._pictures or self._pictures + pictures <= most_pictures
        return has_pictures and (not self._bytes or self._bytes + file_bytes <= most_bytes)

    def _add(self, pictures: int, file_bytes: int) -> None:
        self._pictures += pictures
        self._bytes += file_bytes
