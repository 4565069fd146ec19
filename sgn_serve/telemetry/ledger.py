"""Account for the time of each request, stage by stage, for its log line, the metrics and Server-Timing.

Every stage is a piece of the request's own way, and no two of them overlap. Their sum is thus at most the whole. The
rest is what lies between them: middleware, and waiting for the event loop.
"""

from contextvars import ContextVar
from dataclasses import dataclass, field
from time import perf_counter_ns
from types import TracebackType

STAGES = ("receive", "parse", "decode", "queue", "infer", "serialise")
"""Stages in the order in which a request passes them. A request has those that it came to."""

clock = perf_counter_ns
"""Clock of every ledger, in nanoseconds. Its zero is that of time.perf_counter."""


@dataclass(slots=True)
class Ledger:
    """Time that one request has spent in each stage, in nanoseconds. None stands for a stage that it never came to.

    Pictures of one request are decoded and answered beside each other. The ledger then tells the stages of the one that
    was done last: the request has waited for that one.

    Attributes:
        started: When the head of the request had arrived, by `clock`.
        receive: Waiting for the body, and unpacking it where it is gzip.
        parse: Reading the form, the JSON or the tensors, without `receive`.
        decode: Decoding the picture files, the wait for a decoder process included.
        queue: The wait of pixels, or tensors, for the run of their batch.
        infer: The run of that batch.
        serialise: The time from there to the head of the answer. A refusal has none.
        total: The time from `started` to the head of the answer.
        batch_size: Pictures in the largest batch that some of the request's pictures were in.
    """

    started: int = field(default_factory=clock)
    receive: int | None = None
    parse: int | None = None
    decode: int | None = None
    queue: int | None = None
    infer: int | None = None
    serialise: int | None = None
    total: int | None = None
    batch_size: int | None = None
    _done: int | None = None

    def note_received(self, since: int) -> None:
        """Add the time since then to `receive`."""
        self.receive = (self.receive or 0) + clock() - since

    def parsing(self) -> "Parsing":
        """Return a context manager that adds the time of its block to `parse`, but for what is received meanwhile."""
        return Parsing(self)

    def note_decoded(self, nanoseconds: int) -> None:
        """Note a picture that has just been decoded, or refused."""
        self.decode, self.queue, self.infer = nanoseconds, None, None
        self._done = clock()

    def note_inferred(self, decode: int | None, queue_seconds: float, infer_seconds: float, pictures: int) -> None:
        """Note pictures whose logits have just arrived.

        Args:
            decode: Nanoseconds that they were decoded for, None where they came as tensors.
            queue_seconds: See `queue`.
            infer_seconds: See `infer`.
            pictures: Pictures in their batch.
        """
        self.decode = decode
        self.queue, self.infer = int(1e9 * queue_seconds), int(1e9 * infer_seconds)
        self.batch_size = max(pictures, self.batch_size or 0)
        self._done = clock()

    def note_answer(self, refused: bool) -> None:
        """Note that the head of the answer goes out."""
        now = clock()
        self.total = now - self.started
        if self._done is not None and not refused:
            self.serialise = now - self._done

    def stages(self) -> list[tuple[str, int]]:
        """Return the stages that the request came to, each with its nanoseconds."""
        values = (self.receive, self.parse, self.decode, self.queue, self.infer, self.serialise)
        return [(name, value) for name, value in zip(STAGES, values, strict=True) if value is not None]

    def server_timing(self) -> str:
        """Return the value of a Server-Timing header: milliseconds, to the microsecond.

        Source: https://www.w3.org/TR/server-timing/
        """
        told = self.stages()
        if self.total is not None:
            told.append(("total", self.total))
        return ", ".join(f"{name};dur={value // 1000 / 1000:.3f}" for name, value in told)


class Parsing:
    """Add the time of a `with` block to a ledger's `parse`, but for what is received meanwhile."""

    __slots__ = ("_ledger", "_received", "_since")

    def __init__(self, ledger: Ledger):
        self._ledger = ledger

    def __enter__(self) -> None:
        self._received = self._ledger.receive or 0
        self._since = clock()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        spent = clock() - self._since - (self._ledger.receive or 0) + self._received
        self._ledger.parse = (self._ledger.parse or 0) + spent


_LEDGER: ContextVar[Ledger] = ContextVar("ledger")


def begin_ledger() -> Ledger:
    """Return a new ledger, which current_ledger returns from now on in this task and in those that it starts."""
    ledger = Ledger()
    _LEDGER.set(ledger)
    return ledger


def current_ledger() -> Ledger:
    """Return the ledger of the request that is being answered, or one that nobody reads where there is none."""
    return _LEDGER.get(None) or Ledger()
