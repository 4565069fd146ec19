"""Clients that ask one thing after the other, and count each request that was not answered as it should be."""

import asyncio
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from benchmarks.service.load import HOST

ANSWER_SECONDS = 120
KEPT_EXAMPLES = 20


@dataclass
class Tally:
    """Count the requests by how they ended.

    Attributes:
        answered: Requests that were answered as they should be.
        failures: Number of the others, by what happened at that time and by what came instead.
        examples: The first of the others, each in a line.
        event: The event of this time.
    """

    answered: int = 0
    failures: Counter[tuple[str, str]] = field(default_factory=Counter)
    examples: list[str] = field(default_factory=list)
    event: str = "nothing"

    def fail(self, instead: str, detail: str) -> None:
        """Count a request that was not answered as it should be."""
        self.failures[self.event, instead] += 1
        if len(self.examples) < KEPT_EXAMPLES:
            self.examples.append(f"during {self.event}: {instead}: {detail}"[:300])


class Clients:
    """Ask a server over some connections until told to stop.

    The first answer to each request is kept, and every later one must name the same class.

    Args:
        port: Where the server listens.
        requests: The bytes of HTTP requests, sent in turn.
        tally: Counts.
    """

    def __init__(self, port: int, requests: Sequence[bytes], tally: Tally):
        self._port = port
        self._requests = requests
        self._tally = tally
        self._labels: dict[int, str] = {}
        self._ended = False
        self._tasks: list[asyncio.Task[None]] = []

    def start(self, connections: int) -> None:
        """Start to ask. Call it on the event loop."""
        self._tasks = [asyncio.create_task(self._ask(number)) for number in range(connections)]

    async def stop(self) -> None:
        """Wait for the last answers."""
        self._ended = True
        await asyncio.gather(*self._tasks)

    async def wait_for(self, answers: int) -> None:
        """Wait until that many more requests have been answered, or have failed."""
        goal = self._done() + answers
        while self._done() < goal:
            await asyncio.sleep(0.02)

    def _done(self) -> int:
        return self._tally.answered + self._tally.failures.total()

    async def _ask(self, number: int) -> None:
        connection = None
        turn = number
        while not self._ended:
            which = turn % len(self._requests)
            turn += 1
            try:
                connection = connection or await asyncio.open_connection(HOST, self._port)
                async with asyncio.timeout(ANSWER_SECONDS):
                    status, body, goes_on = await _exchange(*connection, self._requests[which])
            except (OSError, EOFError, asyncio.LimitOverrunError) as error:  # TimeoutError is an OSError
                self._tally.fail(type(error).__name__, str(error))
                goes_on = False
                await asyncio.sleep(0.05)
            else:
                self._check(which, status, body)
            if not goes_on and connection is not None:
                connection[1].close()
                connection = None
        if connection is not None:
            connection[1].close()

    def _check(self, which: int, status: int, body: bytes) -> None:
        if status != 200:
            self._tally.fail(str(status), body.decode(errors="replace"))
            return
        label = json.loads(body)["label"]
        if label != self._labels.setdefault(which, label):
            self._tally.fail("another class", f"{label} instead of {self._labels[which]}")
        else:
            self._tally.answered += 1


async def _exchange(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes
) -> tuple[int, bytes, bool]:
    """Return the status and the body of the answer to a request, and whether the connection goes on.

    Raises:
        EOFError: The connection ended before the answer did.
    """
    writer.write(request)
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    length = int(head.split(b"content-length:", 1)[1].split(b"\r\n", 1)[0]) if b"content-length:" in head else 0
    return int(head.split(b" ", 2)[1]), await reader.readexactly(length), b"connection: close" not in head
