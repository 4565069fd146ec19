"""Jobs for decoder processes that do what a picture might make a decoder do. They are given to a Decoder by name."""

import ctypes
import errno
import mmap
import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sgn_serve.decoder_processes import child
from sgn_serve.decoder_processes.job import LARGE_PIXELS, IsLarge, Job
from sgn_serve.decoder_processes.messages import ANSWER, Outcome
from sgn_serve.pictures.errors import DamagedImage
from sgn_serve.process import confinement

JOB = "tests.sgn_serve.decoder_processes.faults:make_job"
SHORT_LIVED = "tests.sgn_serve.decoder_processes.faults:make_job_of_short_lives"
WITHOUT_KERNEL = "tests.sgn_serve.decoder_processes.faults:make_job_without_kernel"


_KEPT: list[bytearray] = []


class _Attempt(Exception):
    """An attempt succeeded."""


def make_job(size: list[int], **_: Any) -> Job:
    """Return a job whose files are commands: the name of a function below, or "large" and a name."""

    def run(data: bytes, most_pixels: int) -> NDArray[np.uint8]:
        words = data.decode().split()
        large = most_pixels > LARGE_PIXELS
        if words[0] == "large":
            if not large:
                raise IsLarge(LARGE_PIXELS + 1)
            words.pop(0)
        _COMMANDS[words[0]](*words[1:])
        return np.full((*size, 3), 255 if large else 51, np.uint8)

    return run


def make_job_without_kernel(size: list[int], **options: Any) -> Job:
    """Return the same job, with processes as on a system that has neither Landlock nor seccomp."""
    confinement.deny_files_and_network = lambda: 0
    confinement.filter_system_calls = lambda threads=False: False
    return make_job(size, **options)


def make_job_of_short_lives(size: list[int], **options: Any) -> Job:
    """Return the same job, with processes that end after one picture, or at one second beyond its processor time."""
    child.LIFE_CPU_SECONDS = 0.0
    child._SPARE_CPU_SECONDS = 0
    return make_job(size, **options)


def _loop(*_: str) -> None:
    while True:
        pass


def _loop_deaf() -> None:
    """Loop as code would that a picture has brought in, and that knows by which signals it is to be ended."""
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    _loop()


def _pretend_to_end() -> None:
    """Tell the service that this process ends for want of memory, and go on."""
    message = ANSWER.pack(Outcome.NO_MEMORY, True, 0)
    for number in range(3, 256):
        with suppress(OSError):
            os.write(number, message)
    threading.Event().wait()


def _sleep() -> None:
    os.read(0, 1)  # returns at once: the file is at its end
    threading.Event().wait()


def _work(seconds: str) -> None:
    end = time.thread_time() + float(seconds)
    while time.thread_time() < end:
        pass


def _allocate() -> None:
    kept = []
    while True:
        kept.append(bytearray(1 << 20))


def _take(mebibytes: str) -> None:
    bytearray(int(mebibytes) << 20)


def _take_or_crash(mebibytes: str) -> None:
    """Crash as a decoder does that uses memory without a look at whether it got any."""
    try:
        _take(mebibytes)
    except MemoryError:
        ctypes.string_at(0)


def _keep(mebibytes: str) -> None:
    """Leave less of the process's memory to what it decodes later."""
    _KEPT.append(bytearray(int(mebibytes) << 20))


def _fail_to_allocate_in_c() -> None:
    """Fail as Pillow does where a library says only that it has failed."""
    libc = ctypes.CDLL(None)
    libc.malloc.restype = ctypes.c_void_p
    assert not libc.malloc(ctypes.c_size_t(1 << 40))
    raise DamagedImage("broken data stream")


def _open() -> None:
    with open("/etc/hostname"):
        raise _Attempt


def _write() -> None:
    with open("/tmp/sgn-decoder-was-here", "w"):
        raise _Attempt


def _list() -> None:
    raise _Attempt(os.listdir("/"))


def _connect() -> None:
    with socket.socket() as connection:
        connection.connect(("127.0.0.1", 9))
    raise _Attempt


def _fork() -> None:
    if os.fork() == 0:
        os._exit(0)
    raise _Attempt


def _execute() -> None:
    os.execv("/bin/true", ["/bin/true"])


def _signal_service() -> None:
    os.kill(os.getppid(), signal.SIGTERM)
    raise _Attempt


def _run_data() -> None:
    mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_EXEC)
    raise _Attempt


def _environment() -> None:
    libc = ctypes.CDLL(None)
    libc.getenv.restype = ctypes.c_char_p
    assert not os.environ
    assert libc.getenv(b"PATH") is None
    assert libc.getenv(b"SGN_API_TOKEN") is None


def _descriptors() -> None:
    """Find no open file but what standard input, output and error are, and the socket."""
    found = []
    for number in range(256):
        try:
            os.lseek(number, 0, os.SEEK_CUR)
        except OSError as error:
            if error.errno == errno.EBADF:
                continue
        found.append(number)
    assert len(found) == 4, found


def _write_on_stderr() -> None:
    os.write(2, b"libtiff: a line that is no JSON\n")


_COMMANDS: dict[str, Callable[..., None]] = {
    "well": lambda: None,
    "segfault": lambda: print(ctypes.string_at(0)),
    "abort": os.abort,
    "exit": lambda: os._exit(3),
    "raise": lambda: [][0],
    "loop": _loop,
    "loop_deaf": _loop_deaf,
    "pretend_to_end": _pretend_to_end,
    "sleep": _sleep,
    "work": _work,
    "allocate": _allocate,
    "take": _take,
    "take_or_crash": _take_or_crash,
    "keep": _keep,
    "fail_to_allocate_in_c": _fail_to_allocate_in_c,
    "open": _open,
    "write": _write,
    "list": _list,
    "connect": _connect,
    "fork": _fork,
    "execute": _execute,
    "signal_service": _signal_service,
    "run_data": _run_data,
    "environment": _environment,
    "descriptors": _descriptors,
    "write_on_stderr": _write_on_stderr,
}
