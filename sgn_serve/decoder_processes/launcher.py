"""The service's side of the fork server, which starts decoder processes: start it, and send it orders."""

import asyncio
import json
import logging
import os
import socket
import subprocess
from contextlib import suppress
from dataclasses import asdict
from typing import Any

from sgn_serve.decoder_processes import fork_server
from sgn_serve.decoder_processes.child import Bounds
from sgn_serve.decoder_processes.contract import Kind
from sgn_serve.decoder_processes.messages import ENDED, KILL, ORDER
from sgn_serve.decoder_processes.processes import DecoderProcess, ProcessObserver
from sgn_serve.process.bare_program import start_bare

logger = logging.getLogger("bentoml.sgn_serve")

_START_SECONDS = 60.0
_STOP_SECONDS = 5.0
_RETRY_SECONDS = 0.5
_MALLOC = {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": str(1 << 20), "MALLOC_TRIM_THRESHOLD_": str(4 << 20)}
"""Settings of glibc that give the memory of a large picture back as soon as it is decoded."""
_HUGE_PAGES = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
"""Has glibc 2.35 and later ask for transparent huge pages. Source: its manual, Memory Allocation Tunables."""


class ForkServer:
    """The process that starts decoder processes; see fork_server.py. It is started again if it ends.

    Args:
        job: Function that makes the job, as "module:function"; see job.make_job.
        options: Its arguments, which JSON can carry.
        bounds: Bounds of decoding: in a process for small pictures, and in one for large ones.
        huge_pages: Whether the processes ask for huge pages. Getting the memory of a JPEG of 12 megapixels then takes
            2 ms of the system's time, and not 9. A process may hold up to 2 MiB more for each block of memory.
    """

    def __init__(self, job: str, options: dict[str, Any], bounds: tuple[Bounds, Bounds], huge_pages: bool = False):
        self._malloc = _MALLOC | _HUGE_PAGES if huge_pages else _MALLOC
        orders = {"job": job, "options": options, "bounds": [asdict(each) for each in bounds]}
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
                self._program = _start_program(far_end, self._malloc)
            loop = asyncio.get_running_loop()
            async with asyncio.timeout(_START_SECONDS):
                begun = b""
                with suppress(ConnectionError):  # it ends before it reads, or before it answers
                    await loop.sock_sendall(control, len(self._start_order).to_bytes(4, "little") + self._start_order)
                    begun = await loop.sock_recv(control, 1)
                if not begun:
                    raise OSError("the fork server of the decoders ended at its start; lines above it may say why")
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


def _start_program(far_end: socket.socket, malloc: dict[str, str]) -> "subprocess.Popen[bytes]":
    return start_bare(
        fork_server.__name__,
        [str(far_end.fileno()), str(os.getpid())],
        malloc,
        pass_fds=[far_end.fileno()],
        stdin=subprocess.DEVNULL,
    )
