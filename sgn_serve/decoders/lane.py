"""Some decoder processes of one kind, for whose attention requests take turns."""

import asyncio
from collections.abc import Awaitable, Hashable
from dataclasses import dataclass
from typing import IO

from sgn_serve.decoders.fair_queue import FairQueue
from sgn_serve.decoders.processes import DecoderProcess, End, ForkServer, Kind, ProcessObserver, Result
from sgn_serve.process.confinement import Confinement

_RETRY_SECONDS = 1.0
_SLOW_SECONDS = 1.0
"""Assumed time to decode a picture, until it was measured."""
_NEW_SHARE = 0.2
"""Weight of the newest measurement in the running mean."""


@dataclass(frozen=True)
class TimeLimits:
    """Time limits of one picture.

    Attributes:
        deadline: When decoding must have ended, by the event loop's clock. It may not begin later.
        seconds: Longest time between its beginning and its end.
        cpu_seconds: Longest CPU time.
    """

    deadline: float
    seconds: float
    cpu_seconds: float


class Lane(ProcessObserver):
    """Keeps some processes running, and gives each picture to a free one.

    Args:
        fork_server: Starts the processes.
        kind: What they are for.
        processes: Number of them.
    """

    def __init__(self, fork_server: ForkServer, kind: Kind, processes: int):
        self.kind = kind
        self.processes: list[DecoderProcess] = []
        self.seconds_each = _SLOW_SECONDS
        """Running mean of the seconds that a picture takes."""
        self.confinement: Confinement | None = None
        """What confines its processes, once one has started."""
        self._fork_server = fork_server
        self._wanted = processes
        self._idle: list[DecoderProcess] = []
        self._queue: FairQueue[asyncio.Future[DecoderProcess]] = FairQueue()
        self._first = asyncio.Event()
        self._closed = False

    async def start(self) -> None:
        """Start the processes, and wait for the first one to be free."""
        for _ in range(self._wanted):
            self._add()
        await self._first.wait()

    def close(self) -> None:
        """Replace no process any more."""
        self._closed = True

    def decode_now(self, file: IO[bytes], limits: TimeLimits) -> Awaitable[Result] | None:
        """Have a picture decoded at once, None if no process is free: decode without what only waiting needs.

        Args:
            file: See decode.
            limits: See decode.
        """
        if not self._idle:
            return None
        return self._idle.pop().decode(file, limits.cpu_seconds, limits.seconds)

    async def decode(self, file: IO[bytes], request: Hashable, limits: TimeLimits) -> Result:
        """Have a picture decoded when it is its turn.

        Args:
            file: The file, at its beginning, of no more than kind.file_bytes.
            request: The request that it belongs to. Requests take turns.
            limits: When and for how long.

        Raises:
            TimeoutError: Its turn has not come before the deadline.
        """
        loop = asyncio.get_running_loop()
        process = self._idle.pop() if self._idle else await self._turn(request, limits.deadline)
        started = loop.time()
        try:
            return await process.decode(file, limits.cpu_seconds, min(limits.seconds, limits.deadline - started))
        finally:
            self.seconds_each += _NEW_SHARE * (loop.time() - started - self.seconds_each)

    def free(self, process: DecoderProcess) -> None:
        """Give a process to whose turn it is."""
        self.confinement = process.confinement
        self._first.set()
        while len(self._queue):
            turn = self._queue.pop()
            if not turn.done():
                turn.set_result(process)
                return
        self._idle.append(process)

    def ended(self, process: DecoderProcess, end: End) -> None:
        """Replace a process."""
        self.processes.remove(process)
        if process in self._idle:
            self._idle.remove(process)
        if self._closed:
            return
        if process.confinement is None and end is not End.STOPPED:  # it could not even start
            asyncio.get_running_loop().call_later(_RETRY_SECONDS, self._add)
        else:
            self._add()

    def _add(self) -> None:
        if not self._closed:
            self.processes.append(self._fork_server.fork(self.kind, self))

    async def _turn(self, request: Hashable, deadline: float) -> DecoderProcess:
        """Wait for a process."""
        turn: asyncio.Future[DecoderProcess] = asyncio.get_running_loop().create_future()
        self._queue.put(request, turn)
        try:
            async with asyncio.timeout_at(deadline):
                return await turn
        except BaseException:
            self._queue.remove(request, turn)
            if turn.done() and not turn.cancelled():
                self.free(turn.result())  # it was just given to somebody who has gone
            raise
