"""Hand chunks to actors of a Ray cluster. A lost actor's chunks are given to others, so that no row is lost."""

import os
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sgn_serve.classify.errors import ClassifyError
from sgn_serve.classify.items import Item
from sgn_serve.classify.objects import is_object
from sgn_serve.classify.on_ray.cluster import GO_ON, Cluster
from sgn_serve.classify.on_ray.worker import Started, Worker
from sgn_serve.classify.reading import UNREADABLE
from sgn_serve.classify.rows import Row, error_row
from sgn_serve.classify.tables import can_be_opened
from sgn_serve.common.error_text import one_line
from sgn_serve.common.ray_cluster import LOOK_SECONDS, PROCESS_ENDED, TRIES, Head, Size, reason_of_loss, wait_for
from sgn_serve.common.refusals import ServingError
from sgn_serve.inference.engines import CUDA, EngineError
from sgn_serve.process.version import package_version
from sgn_serve.records import ModelCard
from sgn_serve.serving.engine_choice import EngineChoice
from sgn_serve.settings import Settings

_AT_A_TIME = 2
"""Chunks that a worker has: while one is in the network, the files of the next one are read and decoded."""
_AHEAD = 4
"""Chunks for each worker that are begun before the oldest is written. Fast workers need not wait for a slow one."""
_WAIT_SECONDS = 30.0
WORKER_ENDED = "worker_ended"
"""Code of a row whose input ends the processes of workers."""
_HOPELESS = 40
"""Workers lost in a row, without an answer between them, after which the inputs are not to blame."""
_MEND = f"give workers more memory, or a smaller --max-batch, and {GO_ON}"


@dataclass(eq=False)
class _Member:
    """A worker of the pool.

    Attributes:
        actor: Ray's handle of it.
        machine: The name of its machine, "" until its process is up.
        process: The number of its process there.
        started: Its report that it has started, None until then.
        chunks: The chunks that it has.
    """

    actor: Any
    machine: str = ""
    process: int = 0
    started: Started | None = None
    chunks: list["Chunk"] = field(default_factory=list)

    @property
    def name(self) -> str:
        """Name of the worker in messages."""
        return f"the worker on {self.machine} (process {self.process})" if self.machine else "a worker"

    def may_take(self, chunk: "Chunk") -> bool:
        """Return whether it has started, and has room for a chunk.

        A chunk that was with a lost worker is alone with the next one. So a chunk is blamed for its own losses only.
        """
        if self.started is None or len(self.chunks) == _AT_A_TIME:
            return False
        return not self.chunks or not any(one.losses or one.mishaps for one in (chunk, *self.chunks))


@dataclass(eq=False)
class Chunk:
    """A chunk that was handed to the pool.

    Attributes:
        pool: The pool.
        number: Its number, from 0.
        items: Its inputs.
        rows: Their rows, None until they are there.
        losses: Number of workers whose process ended while they had it.
        mishaps: Number of workers that were lost for another reason while they had it.
        is_half: Whether it is half of another chunk.
        halves: Its two halves, once it has ended TRIES workers. They are classified in its place.
    """

    pool: "Pool"
    number: int
    items: Sequence[Item]
    rows: list[Row] | None = None
    losses: int = 0
    mishaps: int = 0
    is_half: bool = False
    halves: "tuple[Chunk, Chunk] | None" = None

    def result(self) -> list[Row]:
        """Wait for the rows, and return them.

        Raises:
            ServingError: The model cannot answer so large a batch, or no worker or head is left.
            OSError: A worker's decoders do not start.
        """
        while self.rows is None:
            if self.halves is not None:
                self.rows = [row for half in self.halves for row in half.result()]
            else:
                self.pool.advance()
        return self.rows

    def halve(self) -> "tuple[Chunk, Chunk]":
        """Divide it, and return its halves. A half is divided at its first loss, a single input after a second one.

        Where it holds more than a batch it is divided between two batches, which are then filled as before.
        """
        middle, batch = len(self.items) // 2, self.pool.max_batch
        if len(self.items) > batch:
            middle = max(1, middle // batch) * batch
        parts = self.items[:middle], self.items[middle:]
        first, second = (
            Chunk(self.pool, self.number, part, losses=TRIES - (1 if len(part) > 1 else 2), is_half=True)
            for part in parts
        )
        self.halves = first, second
        return self.halves


@dataclass(frozen=True)
class _Call:
    """A call that a worker has not answered.

    Attributes:
        member: The worker.
        then: Takes the answer.
    """

    member: _Member
    then: Callable[[_Member, Any], None]


class Pool:
    """Classifies chunks on the workers of a cluster, as ChunkClassifier does on one machine.

    All workers run the engine that the first one chooses. It moves on only while somebody waits for a result.

    Args:
        settings: The settings of the service, as for ChunkClassifier.
        choice: The engine to run on. None has the first worker choose.
        cluster: The connection.
        note: Prints a line for the user.

    Attributes:
        choice: The engine of the run, None before the start where none was given.
        answered: Number of inputs that have their row.
        ahead: Chunks to submit before the oldest is written.
        max_batch: Pictures that go through the network together, at most.
    """

    def __init__(self, settings: Settings, choice: EngineChoice | None, cluster: Cluster, note: Callable[[str], None]):
        self.choice = choice
        self.answered = 0
        self.ahead = _AHEAD
        self.max_batch = settings.max_batch
        model_path = Path(os.path.abspath(settings.model_path))
        # The service's tokens are nobody's business on the cluster, which keeps what actors are made with.
        self._settings = settings.model_copy(update={"model_path": model_path, "api_tokens": ()})
        self._cluster = cluster
        self._note = note
        self._folder = os.fsencode(os.getcwd())
        self._size = Size(0, 0, 0)
        self._members: list[_Member] = []
        self._calls: dict[Any, _Call] = {}
        self._waiting: deque[Chunk] = deque()
        self._submitted = 0
        self._missing = 0
        self._lost_in_a_row = 0
        self._first: Started | None = None
        self._choosing: _Member | None = None
        self._head = Head(cluster, GO_ON)

    @property
    def card(self) -> ModelCard:
        """The model's card. The pool must have been started."""
        assert self._first is not None, "the card comes with the start"
        return self._first.card

    def start(self) -> None:
        """Ask for the workers, and wait for the first. The others join when they are there.

        Raises:
            ServingError: The model cannot be used, or there is room for no worker.
        """
        names = {name.lower().removesuffix("executionprovider") for name in self._settings.providers}
        self._size = self._cluster.size(CUDA.lower().removesuffix("executionprovider") in names)
        self.ahead = _AHEAD * self._size.workers
        self._missing = self._size.workers
        told_at = time.monotonic() + _WAIT_SECONDS
        while self._first is None:
            self.advance()
            if time.monotonic() > told_at and not any(member.machine for member in self._members):
                told_at = float("inf")
                self._note(
                    f"waiting for {self._size.cores} cores of a machine, which others on the cluster have; a smaller "
                    "--ray-cores may be given at once"
                )

    def submit(self, items: Sequence[Item]) -> Chunk:
        """Begin a chunk, and return it. Its result waits for the rows."""
        chunk = Chunk(self, self._submitted, [self._absolute(item) for item in items])
        self._submitted += 1
        self._waiting.append(chunk)
        self._hand_out()
        return chunk

    def close(self) -> None:
        """End the workers. Chunks that are not done are given up."""
        import ray

        if not self._cluster.lost:
            for member in self._members:
                ray.kill(member.actor)
        self._members.clear()
        self._calls.clear()
        self._waiting.clear()

    def advance(self) -> None:
        """Wait for the answer of a worker, and do what follows from it.

        Raises:
            ServingError: See Chunk.result.
            OSError: See there.
        """
        if self._missing and self._head.answers():
            for _ in range(self._missing):
                self._recruit()
            self._missing = 0
        done: list[Any] = []
        if self._calls:
            done, _ = wait_for(list(self._calls))
        else:
            time.sleep(LOOK_SECONDS)  # no worker can be asked for without a head
        if not done:
            self._head.answers()
        for answer in done:
            call = self._calls.pop(answer, None)
            if call is not None:  # an earlier answer of this round may have lost its worker
                self._take(call, answer)
        self._hand_out()

    def _take(self, call: _Call, answer: Any) -> None:
        import ray

        try:
            value = ray.get(answer)
        except ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, ray.exceptions.RayError):  # the object store may be full
                self._lose(call.member, error.cause)
            else:
                self._refuse(call.member, error)
        except ray.exceptions.RayError as error:
            self._lose(call.member, error)
        else:
            call.then(call.member, value)

    def _call(self, member: _Member, answer: Any, then: Callable[[_Member, Any], None]) -> None:
        self._calls[answer] = _Call(member, then)

    def _recruit(self) -> None:
        import ray

        actor = ray.remote(Worker).options(
            num_cpus=self._size.cores,
            num_gpus=self._size.gpus,
            max_concurrency=_AT_A_TIME,
            max_restarts=0,  # a lost worker's chunks go to others at once, and another worker is asked for
            scheduling_strategy="SPREAD",
        )
        member = _Member(actor.remote(self._settings, self._size.cores))
        self._members.append(member)
        self._call(member, member.actor.place.remote(), self._greet)

    def _greet(self, member: _Member, place: tuple[str, int]) -> None:
        """Take note of where a worker is, and start it."""
        member.machine, member.process = place
        self._start(member)

    def _start(self, member: _Member) -> None:
        """Start a worker whose process is up. Without a choice, one chooses, and the others wait for it."""
        if self.choice is None:
            if self._choosing is not None:
                return
            self._choosing = member
        self._call(member, member.actor.start.remote(self.choice), self._admit)

    def _admit(self, member: _Member, started: Started) -> None:
        """Admit a worker if everything that its rows depend on equals the first worker's."""
        if self._first is None:
            if started.version != package_version():
                raise ClassifyError(
                    f"{member.machine} has version {started.version} of this package, and this machine "
                    f"{package_version()}; install the same one on every machine"
                )
            self._first, self.choice = started, started.choice
        for name, wanted in self._first.decisive.items():
            if started.decisive[name] != wanted:
                self._leave_out(member, f"its {name} is {started.decisive[name]}, and that of the others {wanted}")
                return
        member.started = started
        if self._choosing is member:
            self._choosing = None
            for other in self._members:
                if other.machine and other.started is None:
                    self._start(other)

    def _hand_out(self) -> None:
        """Give the oldest chunks to the workers that have the fewest."""
        while self._waiting:
            chunk = self._waiting[0]
            able = [member for member in self._members if member.may_take(chunk)]
            if not able:
                return
            member = min(able, key=lambda one: len(one.chunks))
            self._waiting.popleft()
            member.chunks.append(chunk)

            def finish(member: _Member, rows: list[Row], chunk: Chunk = chunk) -> None:
                if not chunk.is_half:
                    _check_files(member, chunk, rows)
                member.chunks.remove(chunk)
                chunk.rows = rows
                self.answered += len(rows)
                self._lost_in_a_row = 0

            self._call(member, member.actor.classify.remote(chunk.items), finish)

    def _refuse(self, member: _Member, error: Any) -> None:
        """Do what follows from an exception in a worker."""
        cause = error.cause
        if member.started is None and self._first is not None and isinstance(cause, ServingError | OSError):
            self._leave_out(member, one_line(cause))
        elif isinstance(cause, EngineError) and member.started is None:
            raise cause
        elif isinstance(cause, ServingError):
            raise ClassifyError(f"{member.name}: {cause}")
        elif isinstance(cause, OSError):
            raise OSError(f"{member.name}: {one_line(cause)}")
        else:
            raise error

    def _leave_out(self, member: _Member, reason: str) -> None:
        self._note(f"{member.name} is left out: {reason}")
        self._remove(member)
        self._check_any_left(reason)

    def _lose(self, member: _Member, error: Exception) -> None:
        """Give the chunks of a lost worker to others, and ask for another worker."""
        self._remove(member)
        if member is self._choosing:
            self._choosing = None
        reason = reason_of_loss(error)
        self._lost_in_a_row += bool(member.chunks)
        if self._lost_in_a_row == _HOPELESS:
            raise ClassifyError(
                f"{_HOPELESS} workers in a row have ended, the last on {member.machine} ({reason}); {_MEND}"
            )
        for chunk in sorted(member.chunks, key=lambda one: -one.number):
            if reason == PROCESS_ENDED:
                chunk.losses += 1
            else:
                chunk.mishaps += 1
            if max(chunk.losses, chunk.mishaps) < TRIES:
                self._waiting.appendleft(chunk)
            else:
                self._blame(chunk, member, reason)
        if member.started is not None:
            self._note(f"{member.name} is lost ({reason}); what it had is done again")
            self._missing += 1
        else:  # it may end again and again, so no other one is asked for in its place
            self._note(f"{member.name} ended before it had started ({reason})")
            self._check_any_left(reason)
        for other in self._members if self.choice is None else ():
            if other.machine and self._choosing is None:
                self._start(other)

    def _blame(self, chunk: Chunk, member: _Member, reason: str) -> None:
        """Divide a chunk that has ended TRIES workers. A single input gets the row of an error.

        Where no worker has answered anything yet, the network may be to blame. So others are tried before.

        Raises:
            ClassifyError: The machine, the memory or the store is to blame.
        """
        count, name = len(chunk.items), chunk.items[0].name
        inputs = f"the chunk of {count} inputs that begins with {name} has" if count > 1 else f"{name} has"
        if chunk.mishaps == TRIES:
            raise ClassifyError(f"{inputs} lost {TRIES} workers, the last on {member.machine} ({reason}); {_MEND}")
        if count > 1:
            self._note(f"{inputs} ended {TRIES} workers; its halves are tried one by one")
            self._waiting.extendleft(reversed(chunk.halve()))
        elif not self.answered:
            chunk.losses -= 1
            self._waiting.append(chunk)
        else:
            message = f"it has ended {TRIES} workers, the last on {member.machine} ({reason})"
            chunk.rows = [error_row(name, self.card.default_mode, WORKER_ENDED, message)]
            self.answered += 1

    def _remove(self, member: _Member) -> None:
        import ray

        self._members.remove(member)
        self._calls = {answer: call for answer, call in self._calls.items() if call.member is not member}
        if self._head.answers():
            ray.kill(member.actor)  # it may only be out of reach, and must not hold cores

    def _check_any_left(self, reason: str) -> None:
        if not self._members and not self._missing:
            raise ClassifyError(f"no worker is left ({reason}); mend that, and {GO_ON}")

    def _absolute(self, item: Item) -> Item:
        """Return an item that a process in another working folder can read. Its name stays."""
        if item.file is not None and not is_object(item.file):
            return item._replace(file=os.path.join(self._folder, item.file))
        if item.table is not None:
            return item._replace(table=os.path.join(self._folder, item.table))
        return item


def _check_files(member: _Member, chunk: Chunk, rows: list[Row]) -> None:
    """Check that a worker sees the files that this machine sees. Rows of errors would hide that a share is missing.

    Raises:
        ClassifyError: It could read none of the files of a chunk, and this machine can read the first one.
    """
    found = [
        (item, row)
        for item, row in zip(chunk.items, rows, strict=True)
        if item.file is not None or item.table is not None
    ]
    if found and all(row.error_code == UNREADABLE for _, row in found) and _is_readable(found[0][0]):
        raise ClassifyError(
            f"{member.name} cannot read {found[0][1].path} ({found[0][1].error_message}), and this machine can; mount "
            f"the folder under the same path on every machine, and {GO_ON}"
        )


def _is_readable(item: Item) -> bool:
    if item.table is not None:
        return can_be_opened(item.table, item.column)
    return item.file is not None and os.path.isfile(item.file) and os.access(item.file, os.R_OK)
