"""The service's side of a decoder process: give it pictures, take its answers, and end it."""

import asyncio
import mmap
import os
import signal
import socket
import tempfile
from collections.abc import Callable
from contextlib import suppress
from io import BytesIO
from typing import IO

import numpy as np
from numpy.typing import NDArray

from sgn_serve.decoder_processes.contract import End, Kind, Limits, Result
from sgn_serve.decoder_processes.messages import ANSWER, FORK, HELLO, NO_MEMORY_STATUS, ORDER, TASK, Outcome
from sgn_serve.process.confinement import Confinement
from sgn_serve.telemetry import metrics

_CHUNK = 1 << 20
_KEPT_BYTES = 1 << 19
"""Shared memory that a process keeps between two pictures. The pages of a larger file are given back."""
_OUTCOMES = {outcome.value: outcome for outcome in Outcome}


class ProcessObserver:
    """Callbacks of a decoder process. All of them run on the event loop."""

    def free(self, process: "DecoderProcess") -> None:
        """Take note that a process can take a picture: for the first time, or again."""

    def ended(self, process: "DecoderProcess", end: End) -> None:
        """Take note that a process has ended."""


class DecoderProcess:
    """A decoder process, as the service sees it. It takes one picture at a time.

    Args:
        number: Its number in messages to the fork server.
        kind: Kind of the process.
        observer: Told when it is free, and when it has ended.
        kill: Has the fork server end a process.
    """

    def __init__(
        self, number: int, kind: Kind, observer: ProcessObserver, kill: Callable[["DecoderProcess"], None]
    ) -> None:
        self.number = number
        self.kind = kind
        self.pid = 0
        """Process id, 0 until the process has started."""
        self.confinement: Confinement | None = None
        self.is_new = True
        """Whether it was given no picture yet."""
        self._observer = observer
        self._order_kill = kill
        self._answer: asyncio.Future[Result] | None = None
        self._received = b""
        self._until: float | None = None
        """Deadline of the picture that it decodes, by the event loop's clock."""
        self._timer: asyncio.TimerHandle | None = None
        self._end: End | None = None
        self._alive = True
        self.connection, self._far_end = socket.socketpair()
        self.connection.setblocking(False)
        self._memory = _make_memory(kind.region_bytes)
        self._region = mmap.mmap(self._memory, kind.region_bytes)
        self._length = 0
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self.connection.fileno(), self._read)

    def hand_over(self, control: socket.socket) -> None:
        """Order the process from the fork server.

        Raises:
            OSError: The fork server has ended.
        """
        order = ORDER.pack(FORK, self.number, self.kind.large)
        socket.send_fds(control, [order], [self._far_end.fileno(), self._memory])
        self._far_end.close()

    async def decode(self, file: IO[bytes], limits: Limits, seconds: float) -> Result:
        """Have a picture decoded.

        Cancelled, it leaves a process for small pictures to its task, which is short. It ends one for large pictures.

        Args:
            file: The file, at its beginning, of no more than kind.file_bytes.
            limits: Limits for the picture.
            seconds: Time that it may take, no longer than the limits have it.
        """
        if not self._alive:
            return Result(None, end=End.STOPPED)
        self.is_new = False
        self._answer = answer = self._loop.create_future()
        try:
            self._length = self._share(file)
        except OSError:  # the system lacks memory, or the disk with the upload fails: not the picture's fault
            self.kill(End.STOPPED)
        else:
            self._set_timer(self._loop.time() + seconds)
            with suppress(OSError):  # the process has just ended, and the fork server will tell
                self.connection.send(TASK.pack(self._length, limits.pixels, limits.cpu_seconds))
        try:
            return await answer
        except asyncio.CancelledError:
            if self.kind.large and self._answer is answer:  # there is no answer yet
                self.kill(End.CANCELLED)
            raise

    def _share(self, file: IO[bytes]) -> int:
        """Put a file into the shared memory, and return its length.

        It is written to the memory's descriptor. The pages of a mapping would be cleared before they are written.
        """
        size = -1 if isinstance(file, BytesIO) else _CHUNK  # the whole of a BytesIO is not copied
        length = 0
        while chunk := file.read(size):
            rest = memoryview(chunk)
            while rest:
                written = os.pwrite(self._memory, rest, length)
                rest, length = rest[written:], length + written
        return length

    def kill(self, reason: End) -> None:
        """End the process, for this reason."""
        if self._end is None:
            self._end = reason
            if self._alive:
                self._order_kill(self)

    def has_ended(self, status: int | None) -> None:
        """Take note of the end of the process.

        Args:
            status: The status that os.waitpid returns, None if the fork server has ended too.
        """
        if not self._alive:
            return
        self._alive = False
        if status is not None:
            if self._answer is not None:
                self._read()  # its last answer may arrive together with the news of its end, and tells the reason
            self._end = self._end or _reason(status)
        end = End.STOPPED if status is None else self._end or End.CRASH
        self._close()
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(Result(None, end=end))
        if end is not End.STOPPED:
            metrics.DECODER_ENDS.labels(end).inc()
        if self.confinement is not None:
            metrics.DECODERS.dec()
        self._observer.ended(self, end)

    def _read(self) -> None:
        """Take what the process sends: first that it is ready, then an answer for each picture."""
        try:
            part = self.connection.recv(1 << 16)
        except BlockingIOError:
            return
        except OSError:
            part = b""
        if not part:
            self._loop.remove_reader(self.connection.fileno())  # the fork server will tell why it has ended
            return
        self._received += part
        if self.confinement is None:
            if len(self._received) >= HELLO.size:
                self.pid, *confined = HELLO.unpack_from(self._received)
                self.confinement = Confinement(*confined)
                self._received = self._received[HELLO.size :]
                metrics.DECODERS.inc()
                if self._end is None:
                    self._observer.free(self)
            return
        if len(self._received) < ANSWER.size:
            return
        code, last, length = ANSWER.unpack_from(self._received)
        if len(self._received) < ANSWER.size + length:
            return
        text = self._received[ANSWER.size :].decode("utf-8", "replace")
        self._received = b""
        self._take_answer(code, last, text)

    def _take_answer(self, code: int, last: bool, text: str) -> None:
        self._until = None
        answer, self._answer = self._answer, None
        outcome = _OUTCOMES.get(code)
        if answer is None or outcome is None:
            self.kill(End.CRASH)  # an unexpected answer: a picture may have taken the process over
            if answer is not None and not answer.done():
                answer.set_result(Result(None, end=End.CRASH))
            return
        if not answer.done():
            answer.set_result(Result(outcome, text, self._pixels() if outcome is Outcome.PIXELS else None))
        if self._length > _KEPT_BYTES and hasattr(mmap, "MADV_REMOVE"):
            self._region.madvise(mmap.MADV_REMOVE)
        if last:  # it ends by itself, unless a picture has taken it over
            self.kill(End.MEMORY if outcome is Outcome.NO_MEMORY else End.AGE)
        elif self._end is None and self._alive:
            self._observer.free(self)

    def _pixels(self) -> NDArray[np.uint8]:
        height, width = self.kind.size
        return np.frombuffer(self._region[: 3 * height * width], np.uint8).reshape(height, width, 3)

    def _set_timer(self, until: float) -> None:
        """Have the process ended at a time. A timer that is due before then stays: making one takes 20 us."""
        self._until = until
        if self._timer is None or self._timer.when() > until:
            self._stop_timer()
            self._timer = self._loop.call_at(until, self._look_at_time)

    def _look_at_time(self) -> None:
        """End the process if its picture is not done in time. Look again later if it has a later one by now."""
        self._timer = None
        if self._until is None:
            return
        if self._loop.time() >= self._until:
            self.kill(End.TIME)
        else:
            self._set_timer(self._until)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _close(self) -> None:
        self._stop_timer()
        self._loop.remove_reader(self.connection.fileno())
        self.connection.close()
        self._far_end.close()
        self._region.close()
        os.close(self._memory)


def _make_memory(size: int) -> int:
    """Return the descriptor of a file in memory, or of one on disk where the system has no such files."""
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("picture", os.MFD_CLOEXEC)
    else:
        with tempfile.TemporaryFile() as file:
            descriptor = os.dup(file.fileno())
    os.ftruncate(descriptor, size)
    return descriptor


def _reason(status: int) -> End:
    """Return why a process has ended that was not told to, by its status as os.waitpid returns it."""
    if status < 0:
        return End.CRASH  # it could not be forked
    if os.WIFEXITED(status) and os.WEXITSTATUS(status) == NO_MEMORY_STATUS:
        return End.MEMORY
    if os.WIFSIGNALED(status):
        if os.WTERMSIG(status) in (signal.SIGPROF, signal.SIGXCPU):
            return End.TIME
        if os.WTERMSIG(status) == signal.SIGKILL:
            return End.MEMORY  # the whole machine or container has too little: the kernel has chosen this process
    return End.CRASH
