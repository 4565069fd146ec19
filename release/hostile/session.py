"""Measure what a request costs a running server: memory, time, and what a small picture waits meanwhile."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from benchmarks.errors import BenchmarkError
from release.hostile.client import Answer, Request, Senders, many_pictures, one_picture
from release.hostile.observer import Observer, Window, cpu_seconds, observing, peaks_since, reset_peaks, tree
from release.hostile.seeds import seeds
from release.hostile.server import Server

MEGABYTE = 1e6
MANY = 16
"""Pictures in one request, at most, by default."""
_WARM_ROUNDS = 6
_QUIET_SECONDS = 0.1
_QUIET_SHARE = 0.5
"""Share of a core that a server, which answers small pictures now and then, takes at most when nothing else is left."""
_MOST_QUIET_SECONDS = 120.0


@dataclass(frozen=True)
class Cost:
    """The cost of requests that were sent together.

    Attributes:
        statuses: How many answers had each status.
        megabytes: How much more memory the server's processes took, at the peak, than before.
        above_idle: The same, compared with the idle server.
        seconds: The longest answer.
        small_seconds: How long a small picture, sent again and again beside them, waited at most.
        small_refused: How many of those were refused because the server was busy.
        small_failed: How many of those got another answer, or none.
        faults: How many answers were the server's fault.
        killed: Whether the server was ended because it took more memory than it may.
        elapsed: Seconds from the first request to the last answer.
        server_cores: Cores that the server's processes took on average in that time.
        sender_cores: Cores that the process took that sent the requests.
    """

    statuses: dict[str, int]
    megabytes: float
    above_idle: float
    seconds: float
    small_seconds: float
    small_refused: int
    small_failed: int
    faults: int
    killed: bool
    elapsed: float
    server_cores: float
    sender_cores: float


class Session:
    """A server under observation.

    Args:
        server: The server.
        observer: Watches it.
        token: Its API token, if it wants one.
    """

    def __init__(self, server: Server, observer: Observer, token: str):
        self.server = server
        self._observer = observer
        self._token = token
        self._senders: dict[int, Senders] = {}
        self.idle = 0.0
        """Memory of the idle server, in megabytes."""
        self.killed = False
        """Whether the server was ended because it took more memory than it may."""

    def warm_up(self) -> None:
        """Send the largest ordinary requests, so that what the server keeps from then on is there, and measure idle.

        Raises:
            BenchmarkError: The server does not answer an ordinary picture.
        """
        small = seeds("PNG")[0]
        answers = self.send([one_picture(small)] * MANY + [many_pictures([small] * MANY)] * _WARM_ROUNDS, 2)
        wrong = [answer for answer in answers if answer.status != 200]
        if wrong:
            raise BenchmarkError(
                f"the server answers an ordinary picture with {wrong[0].kind}; "
                "start it with its default settings, without a rate limit, and name its token with --token"
            )
        time.sleep(0.5)
        self._observer.window()
        time.sleep(0.1)
        self.idle = self._observer.window().peak

    def window(self) -> Window:
        """Return what was seen since the last call."""
        window = self._observer.window()
        self.killed = self.killed or window.killed
        return window

    def send(self, requests: Sequence[Request], connections: int, insist: bool = True) -> list[Answer]:
        """Send requests over that many connections and return the answers in their order."""
        if connections not in self._senders:
            self._senders[connections] = Senders(self.server.host, self.server.port, connections, self._token)
        return self._senders[connections].send_all(requests, insist)

    def cost(self, requests: Sequence[Request], insist: bool = True) -> tuple[Cost, list[Answer]]:
        """Send requests at the same time, each over its own connection, while nothing else is measured.

        Args:
            requests: The requests.
            insist: Whether one that is refused because the server is busy is sent again.

        Returns:
            The cost of all together, and the answers.
        """
        self.wait_until_quiet()
        before = self.window().last
        kernel = reset_peaks(tree(self.server.pid))
        served, sent, began = cpu_seconds(tree(self.server.pid)), time.process_time(), time.monotonic()
        answers = self.send(requests, len(requests), insist)
        elapsed = time.monotonic() - began
        sent = time.process_time() - sent
        served = max(0.0, cpu_seconds(tree(self.server.pid)) - served)
        grown = peaks_since(kernel) / MEGABYTE
        window = self.window()
        statuses: dict[str, int] = {}
        for answer in answers:
            statuses[str(answer.status)] = statuses.get(str(answer.status), 0) + 1
        cost = Cost(
            dict(sorted(statuses.items())),
            round(max(window.peak - before, grown), 1),
            round(window.peak - self.idle, 1),
            round(max(answer.seconds for answer in answers), 3),
            round(window.small_seconds, 3),
            window.small_refused,
            window.small_failed,
            sum(answer.fault for answer in answers),
            window.killed,
            round(elapsed, 3),
            round(served / elapsed, 2),
            round(sent / elapsed, 2),
        )
        return cost, answers

    def wait_until_quiet(self) -> None:
        """Wait until the server works at nothing that is left over, such as a picture whose client was given up."""
        deadline = time.monotonic() + _MOST_QUIET_SECONDS
        busy = True
        while busy and time.monotonic() < deadline:
            before = cpu_seconds(tree(self.server.pid))
            time.sleep(_QUIET_SECONDS)
            busy = cpu_seconds(tree(self.server.pid)) - before > _QUIET_SHARE * _QUIET_SECONDS

    def close(self) -> None:
        """End the threads that send."""
        for senders in self._senders.values():
            senders.close()


@contextmanager
def session(server: Server, token: str, most_bytes: float) -> Iterator[Session]:
    """Observe and warm up a server, and return it as a session until the block ends.

    Args:
        server: The server.
        token: Its API token, if it wants one.
        most_bytes: Memory at which it is ended.

    Raises:
        BenchmarkError: See Session.warm_up.
    """
    with observing(server, token, most_bytes) as observer:
        opened = Session(server, observer, token)
        try:
            opened.warm_up()
            yield opened
        finally:
            opened.close()


def available_bytes() -> float:
    """Return how much memory the machine has left."""
    with open("/proc/meminfo") as file:
        return next(1024.0 * int(line.split()[1]) for line in file if line.startswith("MemAvailable:"))
