"""The loop of a decoder process: take a file from the shared memory, decode it, and put the pixels there."""

import ctypes
import errno
import json
import math
import mmap
import os
import signal
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from sgn_serve.decoder_processes.job import IsLarge, Job
from sgn_serve.decoder_processes.messages import ANSWER, HELLO, LONGEST_TEXT, TASK, Outcome
from sgn_serve.pictures.errors import PictureRefused
from sgn_serve.process import confinement
from sgn_serve.process.heap import fill_heap

LIFE_CPU_SECONDS = 20.0
"""Processor time after which a process ends between two pictures. Another one takes its place.

The timer of a picture sends a signal, which code that a picture has brought in could block. The hard limit of
RLIMIT_CPU ends any process, but counts its whole life, and cannot be raised again for the next picture. So lives are
short: the next process takes 1/3000 of this time, 6 ms.
"""
_SPARE_CPU_SECONDS = 10
"""Processor time beyond that and a picture's own until the kernel ends the process."""


@dataclass(frozen=True)
class Bounds:
    """Bounds on what decoding may take.

    Attributes:
        memory_bytes: Address space.
        cpu_seconds: Longest processor time of a picture.
        threads: Whether it may start threads.
    """

    memory_bytes: int
    cpu_seconds: float
    threads: bool


def serve(connection: socket.socket, region: mmap.mmap, job: Job, bounds: Bounds) -> None:
    """Confine this process, then decode until the service closes the connection.

    Args:
        connection: A blocking socket to the service.
        region: The memory that is shared with the service.
        job: Decodes a file.
        bounds: Time and memory that decoding may take.
    """
    error_number = _error_number()
    confinement.limit_processor_time(math.ceil(LIFE_CPU_SECONDS + bounds.cpu_seconds) + _SPARE_CPU_SECONDS)
    fill_heap()
    confined = confinement.confine(bounds.memory_bytes, bounds.threads)
    connection.sendall(HELLO.pack(os.getpid(), confined.landlock, confined.seccomp, confined.memory))
    while head := _receive(connection, TASK.size):
        length, most_pixels, cpu_seconds = TASK.unpack(head)
        # The kernel ends the process with SIGPROF at the end of this time, even in the middle of C code.
        signal.setitimer(signal.ITIMER_PROF, cpu_seconds)
        outcome, text = _answer(job, region, length, most_pixels, error_number)
        signal.setitimer(signal.ITIMER_PROF, 0)
        last = outcome is Outcome.NO_MEMORY or time.process_time() > LIFE_CPU_SECONDS
        connection.sendall(ANSWER.pack(outcome, last, len(text)) + text)
        if last:
            return


def _answer(
    job: Job, region: mmap.mmap, length: int, most_pixels: int, error_number: Callable[[int | None], int]
) -> tuple[Outcome, bytes]:
    """Decode the file in the shared memory, and put the pixels in its place."""
    error_number(0)
    try:
        pixels = job(region[:length], most_pixels)
        region[: pixels.nbytes] = pixels.tobytes()
        return Outcome.PIXELS, b""
    except IsLarge as large:
        return Outcome.LARGE, str(large.pixels).encode()
    except MemoryError:
        return Outcome.NO_MEMORY, b""
    except PictureRefused as refused:
        if error_number(None) == errno.ENOMEM or _comes_from_memory(refused):
            return Outcome.NO_MEMORY, b""
        return Outcome.REFUSED, json.dumps([refused.code, str(refused)]).encode()[:LONGEST_TEXT]
    except Exception as error:
        if error_number(None) == errno.ENOMEM or _comes_from_memory(error):
            return Outcome.NO_MEMORY, b""
        text = f"{type(error).__name__}: {error}"
        return Outcome.FAILED, text.encode("utf-8", "backslashreplace")[:LONGEST_TEXT]


def _comes_from_memory(error: BaseException | None) -> bool:
    """Return whether an exception was raised while a MemoryError was handled."""
    while error is not None:
        if isinstance(error, MemoryError):
            return True
        error = error.__context__
    return False


def _error_number() -> Callable[[int | None], int]:
    """Return a function that sets C's errno, if given a number, and returns it.

    Decoders report a failed allocation in many ways, most of which look like a damaged picture. errno tells: C leaves
    the number of the last failure there, and ENOMEM is that of memory.
    """
    library = ctypes.CDLL(None)
    with suppress(AttributeError):
        library.__errno_location.restype = ctypes.POINTER(ctypes.c_int)
        number = library.__errno_location()

        def look(new: int | None) -> int:
            if new is not None:
                number[0] = new
            return int(number[0])

        return look
    return lambda new: 0  # macOS, which limits no memory


def _receive(connection: socket.socket, length: int) -> bytes:
    """Return that many bytes, none if the connection is closed before."""
    received = b""
    while len(received) < length:
        part = connection.recv(length - len(received))
        if not part:
            return b""
        received += part
    return received
