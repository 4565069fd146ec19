"""The service's side of the decoder processes: have them started, give them pictures, and end them."""

import asyncio
import json
import logging
import mmap
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from sgn_serve.decoders.messages import ANSWER, ENDED, FORK, HELLO, KILL, NO_MEMORY_STATUS, ORDER, TASK, Outcome
from sgn_serve.process.confinement import Confinement
from sgn_serve.telemetry import metrics

logger = logging.getLogger("bentoml.sgn_serve")

_START_SECONDS = 60.0
_STOP_SECONDS = 5.0
_RETRY_SECONDS = 0.5
_CHUNK = 1 << 20
_KEPT_BYTES = 1 << 18
"""Shared memory that a process keeps between two pictures. The pages of a larger file are given back."""
_PACKAGES = str(Path(__file__).parents[2])
_LIBRARY_PATHS = ("LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")
_THREADS = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")
"""Variables that keep NumPy's libraries from starting threads, which no fork would take along."""
_MALLOC = {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": str(1 << 20), "MALLOC_TRIM_THRESHOLD_": str(4 << 20)}
"""Settings of glibc that give the memory of a large picture back as soon as it is decoded."""


class End(StrEnum):
    """Why a decoder process has ended."""

    TIME = "time"
    MEMORY = "memory"
    CRASH = "crash"
    CANCELLED = "cancelled"
    STOPPED = "stopped"
    """The fork server has ended, and all processes with it: no picture's fault."""


@dataclass(frozen=True)
class Result:
    """Tell what became of a picture.

    Attributes:
        outcome: The process's answer, None if it has ended instead.
        text: See messages.Outcome.
        pixels: RGB from 0 to 255, (height, width, 3), where the outcome is PIXELS.
        end: Why the process has ended, None if it has answered.
    """

    outcome: Outcome | None
    text: str = ""
    pixels: NDArray[np.uint8] | None = None
    end: End | None = None


@dataclass(frozen=True)
class Kind:
    """A kind of decoder process.

    Attributes:
        large: Whether it is for large pictures.
        file_bytes: Largest file that it takes.
        size: (height, width) in pixels of what it answers.
    """

    large: bool
    file_bytes: int
    size: tuple[int, int]

    @property
    def region_bytes(self) -> int:
        """Size of the memory that it shares with the service, in bytes: for the file, and then for the pixels."""
        height, width = self.size
        return max(self.file_bytes, 3 * height * width, mmap.PAGESIZE)


@dataclass(frozen=True)
class Limits:
    """Limits of a picture.

    Attributes:
        pixels: Most pixels.
        cpu_seconds: Longest CPU time.
        seconds: Longest time between the beginning and the end of its decoding.
    """

    pixels: int
    cpu_seconds: float
    seconds: float


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
        kind: What it is for.
        observer: Told when it is free, and when it has ended.
        kill: Has the fork server end a process.
    """

    def __init__(
        self, number: int, kind: Kind, observer: ProcessObserver, kill: Callable[["DecoderProcess"], None]
    ) -> None:
        self.number = number
        self.kind = kind
        self.pid = 0
        """Its process id, 0 until it has started."""
        self.confinement: Confinement | None = None
        self._observer = observer
        self._order_kill = kill
        self._answer: asyncio.Future[Result] | None = None
        self._received = b""
        self._timer: asyncio.TimerHandle | None = None
        self._end: End | None = None
        self._alive = True
        self.connection, self._far_end = socket.socketpair()
        self.connection.setblocking(False)
        self._memory = _make_memory(kind.region_bytes)
        self._region = mmap.mmap(self._memory, kind.region_bytes)
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self.connection.fileno(), self._read)

    def hand_over(self, control: socket.socket) -> None:
        """Order the process from the fork server.

        Raises:
            OSError: The fork server has ended.
        """
        order = ORDER.pack(FORK, self.number, self.kind.large)
        socket.send_fds(control, [order], [self._far_end.fileno(), self._memory])
        self._close_far_end()

    async def decode(self, file: IO[bytes], limits: Limits, seconds: float) -> Result:
        """Have a picture decoded.

        Cancelled, it leaves a process for small pictures to its task, which is short. It ends one for large pictures.

        Args:
            file: The file, at its beginning, of no more than kind.file_bytes.
            limits: What it may take.
            seconds: Time that it may take, no longer than the limits have it.
        """
        if not self._alive:
            return Result(None, end=End.STOPPED)
        self._answer = answer = self._loop.create_future()
        self._region.seek(0)
        while chunk := file.read(_CHUNK):
            self._region.write(chunk)
        self._timer = self._loop.call_later(seconds, self.kill, End.TIME)
        with suppress(OSError):  # the process has just ended, and the fork server will tell
            self.connection.send(TASK.pack(self._region.tell(), limits.pixels, limits.cpu_seconds))
        try:
            return await answer
        except asyncio.CancelledError:
            if self.kind.large and self._answer is answer:  # there is no answer yet
                self.kill(End.CANCELLED)
            raise

    def kill(self, reason: End) -> None:
        """End the process, for this reason."""
        if self._alive and self._end is None:
            self._end = reason
            self._order_kill(self)

    def has_ended(self, status: int | None) -> None:
        """Take note of the end of the process.

        Args:
            status: As os.waitpid returns it, None if the fork server has ended too.
        """
        if not self._alive:
            return
        self._alive = False
        if status is not None:
            self._end = self._end or _reason(status)
            if self._answer is not None:
                self._read()  # its last answer may arrive together with the news of its end
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
        code, length = ANSWER.unpack_from(self._received)
        if len(self._received) < ANSWER.size + length:
            return
        text = self._received[ANSWER.size :].decode("utf-8", "replace")
        self._received = b""
        self._take_answer(code, text)

    def _take_answer(self, code: int, text: str) -> None:
        self._stop_timer()
        answer, self._answer = self._answer, None
        if answer is None or code not in set(Outcome):
            self.kill(End.CRASH)  # it says what it should not: it is no longer what it was
            if answer is not None and not answer.done():
                answer.set_result(Result(None, end=End.CRASH))
            return
        outcome = Outcome(code)
        if not answer.done():
            answer.set_result(Result(outcome, text, self._pixels() if outcome is Outcome.PIXELS else None))
        if self._region.tell() > _KEPT_BYTES and hasattr(mmap, "MADV_REMOVE"):
            self._region.madvise(mmap.MADV_REMOVE)
        if outcome is Outcome.NO_MEMORY:
            self._end = End.MEMORY  # it ends by itself
        elif self._end is None:
            self._observer.free(self)

    def _pixels(self) -> NDArray[np.uint8]:
        height, width = self.kind.size
        return np.frombuffer(self._region[: 3 * height * width], np.uint8).reshape(height, width, 3)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _close(self) -> None:
        self._stop_timer()
        self._loop.remove_reader(self.connection.fileno())
        self.connection.close()
        self._close_far_end()
        self._region.close()

    def _close_far_end(self) -> None:
        """Close what only the process needs."""
        self._far_end.close()
        if self._memory >= 0:
            os.close(self._memory)
            self._memory = -1


class ForkServer:
    """The process that starts decoder processes; see fork_server.py. It is started again if it ends.

    Args:
        job: Function that makes the job, as "module:function"; see job.make_job.
        options: Its arguments, which JSON can carry.
        memory: Bytes of address space that decoding may take: in a process for small pictures, and for large ones.
        threads: Whether decoding may start threads.
    """

    def __init__(self, job: str, options: dict[str, Any], memory: tuple[int, int], threads: bool = False):
        orders = {"job": job, "options": options, "memory": memory, "threads": threads}
        self._start_order = json.dumps(orders).encode()
        self._control: socket.socket | None = None
        self._program: subprocess.Popen[bytes] | None = None
        self._processes: dict[int, DecoderProcess] = {}
        self._waiting: list[DecoderProcess] = []
        self._received = b""
        self._numbers = 0
        self._closing = False
        self._restart: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int:
        """Return its process id, 0 if it does not run."""
        return 0 if self._program is None else self._program.pid

    async def start(self) -> None:
        """Start it, and wait until it can fork.

        Raises:
            OSError: It does not start.
        """
        control, far_end = socket.socketpair()
        control.setblocking(False)
        try:
            with far_end:
                self._program = _start_program(far_end)
            loop = asyncio.get_running_loop()
            async with asyncio.timeout(_START_SECONDS):
                await loop.sock_sendall(control, len(self._start_order).to_bytes(4, "little") + self._start_order)
                if not await loop.sock_recv(control, 1):
                    raise OSError("the fork server of the decoders does not start: see the lines above")
        except BaseException:
            control.close()
            await self._wait_for_end()
            raise
        self._control = control
        self._received = b""
        loop.add_reader(control.fileno(), self._read)
        waiting, self._waiting = self._waiting, []
        for process in waiting:
            self._hand_over(process)

    def fork(self, kind: Kind, observer: ProcessObserver) -> DecoderProcess:
        """Have a decoder process started. Its observer is told when it is free."""
        self._numbers += 1
        process = DecoderProcess(self._numbers, kind, observer, self._kill)
        self._processes[process.number] = process
        if self._control is None:
            self._waiting.append(process)
        else:
            self._hand_over(process)
        return process

    async def close(self) -> None:
        """End it and every decoder process."""
        self._closing = True
        if self._restart is not None:
            self._restart.cancel()
            await asyncio.gather(self._restart, return_exceptions=True)
        self._forget()
        await self._wait_for_end()

    def _hand_over(self, process: DecoderProcess) -> None:
        assert self._control is not None, "it is asked for while the fork server runs"
        try:
            process.hand_over(self._control)
        except OSError:
            self._waiting.append(process)  # the loop is about to see that the fork server has ended

    def _kill(self, process: DecoderProcess) -> None:
        if self._control is not None:
            with suppress(OSError):
                self._control.send(ORDER.pack(KILL, process.number, False))

    def _read(self) -> None:
        """Take note of the processes that have ended."""
        assert self._control is not None, "it is read while the fork server runs"
        try:
            part = self._control.recv(1 << 12)
        except BlockingIOError:
            return
        except OSError:
            part = b""
        if not part:
            logger.error("the fork server of the decoders has ended; another one is started")
            self._forget()
            self._restart = asyncio.create_task(self._start_again())
            return
        self._received += part
        while len(self._received) >= ENDED.size:
            number, status = ENDED.unpack_from(self._received)
            self._received = self._received[ENDED.size :]
            process = self._processes.pop(number, None)
            if process is not None:
                process.has_ended(status)

    async def _start_again(self) -> None:
        await self._wait_for_end()
        while True:
            try:
                await self.start()
                return
            except (OSError, TimeoutError) as error:
                logger.error("%s", error)
                await asyncio.sleep(_RETRY_SECONDS)

    def _forget(self) -> None:
        """Close the socket, whereupon the fork server ends, and with it every process."""
        if self._control is not None:
            asyncio.get_running_loop().remove_reader(self._control.fileno())
            self._control.close()
            self._control = None
        processes, self._processes, self._waiting = list(self._processes.values()), {}, []
        for process in processes:
            process.has_ended(None)

    async def _wait_for_end(self) -> None:
        program, self._program = self._program, None
        if program is not None:
            try:
                await asyncio.to_thread(program.wait, _STOP_SECONDS)
            except subprocess.TimeoutExpired:
                program.kill()
                program.wait()


def _start_program(far_end: socket.socket) -> subprocess.Popen[bytes]:
    """Start the program with no more of the environment than Python needs, and in a session of its own."""
    environment = {name: os.environ[name] for name in _LIBRARY_PATHS if name in os.environ}
    environment |= dict.fromkeys(_THREADS, "1") | _MALLOC
    environment["PYTHONPATH"] = os.pathsep.join([_PACKAGES, *(path or os.getcwd() for path in sys.path)])
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "sgn_serve.decoders.fork_server", str(far_end.fileno()), str(os.getpid())],
        env=environment,
        pass_fds=[far_end.fileno()],
        stdin=subprocess.DEVNULL,
        start_new_session=True,  # Ctrl-C is for the service, which ends its decoders when it has answered
    )


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
        if os.WTERMSIG(status) == signal.SIGPROF:
            return End.TIME
        if os.WTERMSIG(status) == signal.SIGKILL:
            return End.MEMORY  # of the whole machine or container: the kernel has chosen this process
    return End.CRASH
