"""Some decoder processes of one kind, whose time pictures share, and for whose attention requests take turns."""

import asyncio
from collections.abc import Awaitable, Hashable
from dataclasses import dataclass
from typing import IO

from sgn_serve.decoder_processes.contract import End, Kind, Limits, Result
from sgn_serve.decoder_processes.launcher import ForkServer
from sgn_serve.decoder_processes.processes import DecoderProcess, ProcessObserver
from sgn_serve.decoder_processes.turns import Class, Share, Turns
from sgn_serve.process.confinement import Confinement

_RETRY_SECONDS = 1.0
_SLOW_SECONDS = 1.0
"""Assumed time to decode a picture, until it was measured."""
_NEW_SHARE = 0.2
"""Weight of the newest measurement in the running mean."""
QUICK_WEIGHT, LONGER_WEIGHT = 5.0, 1.0
"""Weights by which quick and longer pictures share the processes while both wait."""


@dataclass(frozen=True)
class Waiter:
    """A picture as it waits.

    Attributes:
        request: The request that it belongs to. Requests take turns.
        deadline: When decoding must have ended, by the event loop's clock. It may not begin later.
        kind: Its class.
    """

    request: Hashable
    deadline: float
    kind: Class = Class.LONGER


class _Start(ProcessObserver):
    """Tells when a process has started, or has ended instead."""

    def __init__(self) -> None:
        self.over = asyncio.Event()

    def free(self, process: DecoderProcess) -> None:
        self.over.set()

    def ended(self, process: DecoderProcess, end: End) -> None:
        self.over.set()


class Lane(ProcessObserver):
    """Keeps some processes running, and gives each picture to a free one.

    Earlier pictures leave less of the address space to later ones: freed memory lies in pieces. A picture may thus fit
    into one process and not into another. Where `new_process` is set, one that may lack memory is decoded again in a
    process that has decoded nothing. Its answer then depends on the file alone.

    Args:
        fork_server: Starts the processes.
        kind: Kind of the processes.
        processes: Number of them.
        limits: Limits of pictures of each class.
        new_process: Whether a picture that may lack memory in a used process is decoded again in a new one.
    """

    def __init__(
        self,
        fork_server: ForkServer,
        kind: Kind,
        processes: int,
        limits: dict[Class, Limits],
        new_process: bool = False,
    ):
        self.kind = kind
        self.processes: list[DecoderProcess] = []
        self.seconds_each = _SLOW_SECONDS
        """Running mean of the seconds that a picture takes."""
        self.confinement: Confinement | None = None
        """Confinement of its processes, known once one has started."""
        self._fork_server = fork_server
        self._wanted = processes
        self._limits = limits
        self._new_process = new_process
        self._idle: list[DecoderProcess] = []
        self._turns: Turns[asyncio.Future[DecoderProcess]] = Turns(
            Share(QUICK_WEIGHT, limits[Class.QUICK].cpu_seconds),
            Share(LONGER_WEIGHT, limits[Class.LONGER].cpu_seconds),
        )
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

    def decode_now(self, file: IO[bytes]) -> Awaitable[Result] | None:
        """Have a picture decoded at once, None if no process is free: decode without what only waiting needs.

        Args:
            file: See decode.
        """
        if not self._idle:
            return None
        limits = self._limits[Class.LONGER]
        return self._idle.pop().decode(file, limits, limits.seconds)

    async def decode(self, file: IO[bytes], waiter: Waiter) -> Result:
        """Have a picture decoded when it is its turn, with the limits of its class.

        Args:
            file: The file, at its beginning, of no more than kind.file_bytes.
            waiter: The picture as it waits.

        Raises:
            TimeoutError: Its turn has not come before the deadline.
        """
        loop = asyncio.get_running_loop()
        waited = not self._idle
        process = await self._turn(waiter) if waited else self._idle.pop()
        is_final = not self._new_process or process.is_new
        started = loop.time()
        try:
            result = await self._decode(process, file, waiter)
            if is_final or not result.may_lack_memory:
                return result
            file.seek(0)
            return await self._decode_in_new(file, waiter)
        finally:
            seconds = loop.time() - started
            self.seconds_each += _NEW_SHARE * (seconds - self.seconds_each)
            if waited:
                self._turns.settle(waiter.kind, seconds)

    def free(self, process: DecoderProcess) -> None:
        """Give a process to whose turn it is."""
        self.confinement = process.confinement
        self._first.set()
        while len(self._turns):
            kind, turn = self._turns.pop()
            if not turn.done():
                turn.set_result(process)
                return
            self._turns.settle(kind, 0)
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

    async def _decode(self, process: DecoderProcess, file: IO[bytes], waiter: Waiter) -> Result:
        limits = self._limits[waiter.kind]
        seconds = waiter.deadline - asyncio.get_running_loop().time()
        return await process.decode(file, limits, min(limits.seconds, seconds))

    async def _decode_in_new(self, file: IO[bytes], waiter: Waiter) -> Result:
        """Have a picture decoded in a process that is for it alone."""
        start = _Start()
        process = self._fork_server.fork(self.kind, start)
        try:
            async with asyncio.timeout_at(waiter.deadline):
                await start.over.wait()
            return await self._decode(process, file, waiter)
        finally:
            process.kill(End.AGE)

    async def _turn(self, waiter: Waiter) -> DecoderProcess:
        """Wait for a process."""
        turn: asyncio.Future[DecoderProcess] = asyncio.get_running_loop().create_future()
        self._turns.put(waiter.kind, waiter.request, turn)
        try:
            async with asyncio.timeout_at(waiter.deadline):
                return await turn
        except BaseException:
            self._turns.remove(waiter.kind, waiter.request, turn)
            if turn.done() and not turn.cancelled():  # it was just given to somebody who has gone
                self._turns.settle(waiter.kind, 0)
                self.free(turn.result())
            raise
