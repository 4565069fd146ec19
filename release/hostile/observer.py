"""Watch a server from a process of its own: the memory of all its processes, and how long a small picture waits.

Memory is the private and shared memory (PSS) of every process of the tree: what several share counts once. Files that
are mapped, such as libraries, do not count. Reading PSS takes milliseconds. So each round reads a cheap sum first:
RssAnon and RssShmem, never less than PSS. It reads PSS only where that sum exceeds the peak so far.
"""

import contextlib
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from release.hostile.client import BUSY, Client, one_picture
from release.hostile.seeds import seeds
from release.hostile.server import Server

EVERY_SECONDS = 0.005
"""Pause between two readings of the memory."""
BUCKET_SECONDS = 0.02
"""Length of the spans for which peaks are reported."""
SMALL_EVERY_SECONDS = 0.03
"""Pause between the answer to a small picture and the next request."""
_PROC = Path("/proc")
_MEGABYTE = 1e6


def tree(root: int) -> list[int]:
    """Return a process and all that it started, directly or not, and that still run."""
    found, waiting = [], [root]
    while waiting:
        pid = waiting.pop()
        found.append(pid)
        with contextlib.suppress(OSError):
            for task in os.listdir(f"/proc/{pid}/task"):
                with contextlib.suppress(OSError):
                    waiting += map(int, (_PROC / str(pid) / "task" / task / "children").read_text().split())
    return found


def _kilobytes(path: Path, names: tuple[str, ...]) -> int:
    """Return the sum of the lines with those names in a file of /proc."""
    return sum(int(line.split()[1]) for line in path.read_text().splitlines() if line.startswith(names))


def upper_bound(pids: list[int]) -> float:
    """Return the private and shared memory of processes in bytes. Memory that several share counts for each of them."""
    total = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            total += _kilobytes(_PROC / str(pid) / "status", ("RssAnon:", "RssShmem:"))
    return 1024.0 * total


def exact(pids: list[int]) -> float:
    """Return the private and shared memory of processes in bytes, by PSS: what several share counts once."""
    total = 0.0
    for pid in pids:
        try:
            total += _kilobytes(_PROC / str(pid) / "smaps_rollup", ("Pss_Anon:", "Pss_Shmem:"))
        except OSError:  # it has ended, or hides its memory map
            total += upper_bound([pid]) / 1024
    return 1024 * total


def cpu_seconds(pids: list[int]) -> float:
    """Return how much time of a core processes have taken so far, with those that they started and that have ended."""
    ticks = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            fields = (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
            ticks += sum(map(int, fields[11:15]))
    return ticks / os.sysconf("SC_CLK_TCK")


def reset_peaks(pids: list[int]) -> dict[int, float]:
    """Set the kernel's peak of each process to what it has now, and return that in bytes."""
    now = {}
    for pid in pids:
        with contextlib.suppress(OSError):
            (_PROC / str(pid) / "clear_refs").write_text("5")
            now[pid] = 1024.0 * _kilobytes(_PROC / str(pid) / "status", ("VmRSS:",))
    return now


def peaks_since(before: dict[int, float]) -> float:
    """Return by how much any one process has grown at most since reset_peaks, in bytes, by the kernel's own count."""
    grown = [0.0]
    for pid, had in before.items():
        with contextlib.suppress(OSError):
            grown.append(1024.0 * _kilobytes(_PROC / str(pid) / "status", ("VmHWM:",)) - had)
    return max(grown)


@dataclass
class Window:
    """Measurements since the last look.

    Attributes:
        peak: The largest memory of the tree, in megabytes.
        last: The memory of the tree at its end, in megabytes.
        buckets: The largest cheap sum in each span of BUCKET_SECONDS, in megabytes, by the span's number.
        small_seconds: How long a small picture waited at most.
        small_answers: How many small pictures were answered.
        small_refused: How many were refused because the server was busy.
        small_failed: How many got another answer, or none.
        killed: Whether the server was ended because it took more memory than it may.
    """

    peak: float = 0.0
    last: float = 0.0
    buckets: dict[int, float] = field(default_factory=dict)
    small_seconds: float = 0.0
    small_answers: int = 0
    small_refused: int = 0
    small_failed: int = 0
    killed: bool = False


class _Watch:
    """The loop of the observing process."""

    def __init__(self, server: Server, token: str, most_bytes: float, small_every: float = SMALL_EVERY_SECONDS):
        self._server, self._token, self._most, self._small_every = server, token, most_bytes, small_every
        self._lock = threading.Lock()
        self._window = Window()
        self._asked = 0.0
        self._stop = False
        self._counted_twice = 0.0
        """Bytes by which the cheap sum exceeded the exact one, at the last look of this window."""

    def take(self) -> Window:
        """Return the window, and begin the next."""
        pids = tree(self._server.pid)
        now = exact(pids) / _MEGABYTE
        with self._lock:
            window, self._window = self._window, Window(peak=now, killed=self._window.killed)
            self._counted_twice = 0.0
            window.last = now
            window.peak = max(window.peak, now)
            if self._asked:  # one that still waits
                window.small_seconds = max(window.small_seconds, time.monotonic() - self._asked)
        return window

    def watch_memory(self) -> None:
        pids, rounds = tree(self._server.pid), 0
        while not self._stop:
            if rounds % 4 == 0:
                pids = tree(self._server.pid)
            rounds += 1
            cheap = upper_bound(pids)
            bucket = int(time.monotonic() / BUCKET_SECONDS)
            with self._lock:
                window = self._window
                window.buckets[bucket] = max(window.buckets.get(bucket, 0.0), cheap / _MEGABYTE)
                look = cheap - self._counted_twice > window.peak * _MEGABYTE + 1e6
            if look:
                now = exact(pids)
                # A process that ended during the look would seem to be counted twice for ever after.
                lowest = min(cheap, upper_bound(pids))
                with self._lock:
                    self._counted_twice = max(0.0, lowest - now)
                    window.peak = max(window.peak, now / _MEGABYTE)
            if cheap > self._most:
                for pid in pids:
                    with contextlib.suppress(OSError):
                        os.kill(pid, signal.SIGKILL)
                with self._lock:
                    self._window.killed = True
            time.sleep(EVERY_SECONDS)

    def send_small(self) -> None:
        client = Client(self._server.host, self._server.port, self._token)
        request = one_picture(seeds("PNG")[0])
        while not self._stop:
            self._asked = time.monotonic()
            answer = client.send(request)
            with self._lock:
                window = self._window
                if answer.status == 200:
                    window.small_answers += 1
                    window.small_seconds = max(window.small_seconds, answer.seconds)
                elif answer.status == BUSY:
                    window.small_refused += 1
                else:
                    window.small_failed += 1
                self._asked = 0.0
            time.sleep(self._small_every)

    def stop(self) -> None:
        self._stop = True


def _observe(server: Server, token: str, most_bytes: float, small_every: float, orders: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that asks
    watch = _Watch(server, token, most_bytes, small_every)
    for work in (watch.watch_memory, watch.send_small):
        threading.Thread(target=work, daemon=True).start()
    with contextlib.suppress(EOFError, OSError):
        while orders.recv():
            orders.send(watch.take())
    os._exit(0)


class Observer:
    """Asks the observing process.

    Args:
        orders: The way to it.
    """

    def __init__(self, orders: "Connection[Any, Any]"):
        self._orders = orders

    def window(self) -> Window:
        """Return what was seen since the last call, and begin anew."""
        self._orders.send(True)
        window: Window = self._orders.recv()
        return window


@contextmanager
def observing(
    server: Server, token: str, most_bytes: float, small_every: float = SMALL_EVERY_SECONDS
) -> Iterator[Observer]:
    """Watch a server until the block ends.

    Args:
        server: The server.
        token: Its API token, if it wants one.
        most_bytes: Memory at which it is ended, because the machine needs the rest.
        small_every: Pause in seconds between the answer to a small picture and the next one.
    """
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_observe, args=(server, token, most_bytes, small_every, theirs), daemon=True)
    process.start()
    theirs.close()
    try:
        yield Observer(ours)
    finally:
        ours.close()
        process.join(5)
        if process.is_alive():
            process.kill()
