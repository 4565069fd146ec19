"""Dynamic batching: pictures of requests that arrive at about the same time go through the network together.

While one batch runs, the next one gathers. Under load, no request waits just to fill a batch.

An idle network waits for more pictures only if some are on their way, being received or decoded. It waits for half as
many as were recently under way together, and for a few milliseconds at most.

The running time that a batch is expected to take limits its size. A slow network gets small batches, so that nobody
waits long for one; a fast network gets large ones.

This is written by hand because a batchable API of BentoML takes one list. Each request's options would have to travel
within its items, and one bad item would fail the whole batch.
"""

import asyncio
import logging
import math
import os
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from sgn_serve.inference.classifier import Logits
from sgn_serve.refusals import Overloaded

logger = logging.getLogger("bentoml.sgn_serve")

_NEW_SHARE = 0.2
"""Weight of the newest measurement in running means."""


@dataclass(frozen=True)
class Run:
    """One run of the network.

    Attributes:
        self_gradient: Whether the block was on.
        pictures: Pictures in it.
        requests: Requests, or pictures of their own, that these belong to.
        queue_seconds: Seconds from when each request's pictures were decoded to this run, summed over the requests.
        input_seconds: Seconds to put the pictures into one array.
        infer_seconds: Seconds in the network.
        output_seconds: Seconds to give each request its part.
    """

    self_gradient: bool
    pictures: int
    requests: int
    queue_seconds: float
    input_seconds: float
    infer_seconds: float
    output_seconds: float


class Observer:
    """Callbacks of a batcher, for metrics; these ones do nothing.

    All of them run on the event loop. An exception in one does not reach the requests; the first is logged.
    """

    def queued(self, change: int) -> None:
        """Take note that the number of pictures that wait for a batch has changed by `change`."""

    def took(self, pictures: int, waited: list[float]) -> None:
        """Take note that a batch begins.

        Args:
            pictures: Number of pictures in the batch.
            waited: For each request in it, the seconds since its pictures were decoded.
        """

    def ran(self, run: Run) -> None:
        """Take note that the network has run once."""

    def answered(self, seconds: list[float], failed: bool) -> None:
        """Take note that some requests have their logits, or an error.

        Args:
            seconds: For each of them, the seconds since its pictures were decoded.
            failed: Whether it is an error.
        """


class LogitsFunction(Protocol):
    """The network as the batcher calls it: `Classifier.logits`, or a function with the same signature."""

    def __call__(self, images: NDArray[np.float32], self_gradient: bool, with_gradient: bool) -> Logits:
        """Return the logits of a batch; see Classifier.logits."""


@dataclass(frozen=True)
class BatchLimits:
    """Limits of the batches and of the queue.

    Args:
        max_batch: Most pictures in one batch.
        batch_seconds: Longest time that a batch should take. The number of pictures adapts to it, but one request is
            always taken.
        max_wait: Longest time in seconds that an idle network waits for more pictures.
        max_queue: Most pictures that are accepted and not yet answered.
    """

    max_batch: int = 32
    batch_seconds: float = 0.1
    max_wait: float = 0.004
    max_queue: int = 32


@dataclass(frozen=True, eq=False)
class _Item:
    """Pictures of one request in the queue."""

    images: NDArray[np.float32]
    self_gradient: bool
    with_gradient: bool
    answer: "asyncio.Future[tuple[Logits, int]]"
    since: float = field(default_factory=time.perf_counter)


class Place:
    """Reserved room for some pictures, made by `Batcher.reserve`.

    Leaving its `with` block gives back the room that was not used. Room that is reserved and not yet used tells the
    batcher that more pictures are on their way.
    """

    def __init__(self, batcher: "Batcher", pictures: int):
        self._batcher = batcher
        self._left = pictures
        self.batch_size = 0
        """Number of pictures in the largest batch that contained any of these."""

    def __enter__(self) -> "Place":
        return self

    def __exit__(self, *_: object) -> None:
        self.give_back(self._left)

    def give_back(self, pictures: int) -> None:
        """Give back the room of pictures that will not come."""
        self._left -= pictures
        self._batcher._leave(pictures)

    @contextmanager
    def step_aside(self) -> Iterator[None]:
        """Leave the room of one picture to others for a while, because it will not come soon.

        Pictures that wait long to be decoded thus keep nobody out. Afterwards there may be one more than allowed.
        """
        self._batcher._aside += 1
        try:
            yield
        finally:
            self._batcher._aside -= 1

    async def run(self, images: NDArray[np.float32], self_gradient: bool, with_gradient: bool = False) -> Logits:
        """Put pictures into the queue and wait for their logits.

        Args:
            images: (n, 3, H, W) in [0, 1], at most as many as there is reserved room for.
            self_gradient: Whether the block is on.
            with_gradient: Whether the self-gradient is wanted too.

        Returns:
            The logits of these n pictures.
        """
        self._left -= len(images)
        logits, batch_size = await self._batcher._enqueue(images, self_gradient, with_gradient)
        self.batch_size = max(self.batch_size, batch_size)
        return logits


class Batcher:
    """Runs pictures in batches, in a thread of its own, so that two runs never compete for the cores.

    An error in a batch is raised to the requests in that batch. If the batcher's own task ends nevertheless, it ends
    the process: no request would ever be answered again, while a supervisor starts another worker.

    Args:
        run: The network. It is called in the batcher's thread with a batch (n, 3, H, W). A batch that holds requests
            of both kinds is two calls, one with the block off and one with it on.
        limits: Limits of the batches and of the queue.
        observer: Callbacks for metrics.
    """

    def __init__(self, run: LogitsFunction, limits: BatchLimits, observer: Observer | None = None):
        self._run = run
        self.limits = limits
        self._observer = observer or Observer()
        self._observer_failed = False
        self._queue: deque[_Item] = deque()
        self._changed = asyncio.Event()
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="inference")
        self._task: asyncio.Task[None] | None = None
        self._seconds_each = {False: 0.0, True: 0.0}
        self._company = 1.0
        self.pending = 0
        """Number of pictures accepted and not yet answered."""
        self._aside = 0

    def start(self) -> None:
        """Start to run batches. Call it on the event loop."""
        self._task = asyncio.get_running_loop().create_task(self._serve(), name="batcher")
        self._task.add_done_callback(_end_process)

    async def stop(self) -> None:
        """Stop, and wait for the thread to end. Every request that is not answered yet is cancelled."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None
        for item in list(self._queue):
            item.answer.cancel()
            self._forget(item)
        await asyncio.to_thread(self._executor.shutdown)

    @property
    def alive(self) -> bool:
        """Whether the batcher still runs batches."""
        return self._task is not None and not self._task.done()

    def check_room(self, pictures: int = 1) -> None:
        """Check that there is room for some more pictures.

        Raises:
            Overloaded: There is no room for them.
        """
        if self.pending - self._aside + pictures > self.limits.max_queue:
            slowest = max(self._seconds_each.values())
            raise Overloaded(max(1, math.ceil(self.pending * slowest)))

    def reserve(self, pictures: int) -> Place:
        """Reserve room for some pictures.

        Raises:
            Overloaded: There is no room for them.
        """
        self.check_room(pictures)
        self.pending += pictures
        self._tell(self._observer.queued, pictures)
        return Place(self, pictures)

    def _leave(self, pictures: int, waiting: bool = True) -> None:
        """Count pictures as no longer pending. waiting: whether the observer still counts them as waiting."""
        self.pending -= pictures
        if waiting:
            self._tell(self._observer.queued, -pictures)
        self._changed.set()

    def _forget(self, item: _Item) -> None:
        """Remove an item that nobody waits for from the queue and from every sum; nothing if it is not queued."""
        if item in self._queue:
            self._queue.remove(item)
            self._leave(len(item.images))

    def _tell(self, observe: Callable[..., None], *facts: object) -> None:
        try:
            observe(*facts)
        except Exception:
            if not self._observer_failed:
                logger.exception("the batcher's observer fails; further failures are not logged")
            self._observer_failed = True

    async def _enqueue(
        self, images: NDArray[np.float32], self_gradient: bool, with_gradient: bool
    ) -> tuple[Logits, int]:
        answer = asyncio.get_running_loop().create_future()
        item = _Item(images, self_gradient, with_gradient, answer)
        self._queue.append(item)
        self._changed.set()
        try:
            return await answer
        finally:
            self._forget(item)  # queued only if the request was cancelled: its room is free at once

    async def _serve(self) -> None:
        while True:
            await self._gather()
            items = self._take()
            if items:
                await self._answer(items)

    async def _answer(self, items: list[_Item]) -> None:
        started = time.perf_counter()
        pictures = sum(len(item.images) for item in items)
        self._tell(self._observer.queued, -pictures)
        self._tell(self._observer.took, pictures, [started - item.since for item in items])
        answers: list[Logits | Exception] = []
        runs: list[Run] = []
        try:
            answers, runs = await asyncio.get_running_loop().run_in_executor(self._executor, self._work, items)
        except asyncio.CancelledError:  # the batcher is being stopped: nobody would answer these any more
            for item in items:
                item.answer.cancel()
                self._leave(len(item.images), waiting=False)
            raise
        except Exception as error:  # such as no memory for a thread
            logger.exception("a batch of %d pictures could not be run", pictures)
            answers = [error] * len(items)
        seconds: dict[bool, list[float]] = {False: [], True: []}
        for item, answer in zip(items, answers, strict=True):
            self._leave(len(item.images), waiting=False)
            failed = isinstance(answer, Exception)
            seconds[failed].append(time.perf_counter() - item.since)
            if item.answer.cancelled():
                continue
            if isinstance(answer, Exception):
                item.answer.set_exception(answer)
            else:
                item.answer.set_result((answer, pictures))
        for run in runs:
            self._tell(self._observer.ran, run)
        for failed, times in seconds.items():
            if times:
                self._tell(self._observer.answered, times, failed)

    async def _gather(self) -> None:
        """Wait until there is something to run, and until waiting for more pictures has no use or no time left."""
        while not self._queue:
            self._changed.clear()
            await self._changed.wait()
        company = self.pending - self._aside
        self._company = max(company, (1 - _NEW_SHARE) * self._company + _NEW_SHARE * company)
        deadline = time.perf_counter() + self.limits.max_wait
        # Half of them are enough: while these run, the others arrive. From then on two groups take turns, and the
        # network never waits for answers to be sent and the next requests to be read.
        while self._queued() < min(self._company, self._batch_room()) / 2:
            left = deadline - time.perf_counter()
            if left <= 0:
                return
            self._changed.clear()
            try:
                async with asyncio.timeout(left):  # Python 3.11's wait_for may lose the cancellation by `stop`
                    await self._changed.wait()
            except TimeoutError:
                return

    def _queued(self) -> int:
        """Return the number of pictures in the queue."""
        return sum(len(item.images) for item in self._queue)

    def _batch_room(self) -> int:
        """Return how many pictures fit into one batch, from the recent running times."""
        slowest = max(self._seconds_each.values())
        in_time = int(self.limits.batch_seconds / slowest) if slowest else self.limits.max_batch
        return max(1, min(in_time, self.limits.max_batch))

    def _take(self) -> list[_Item]:
        """Remove the next batch from the queue, oldest first, as much as the limits allow but at least one item.

        Cancelled items are dropped; they count neither as pictures nor as time.
        """
        items: list[_Item] = []
        pictures, seconds = 0, 0.0
        while self._queue:
            item = self._queue[0]
            if item.answer.cancelled():
                self._forget(item)
                continue
            pictures += len(item.images)
            seconds += len(item.images) * self._seconds_each[item.self_gradient]
            if items and (pictures > self.limits.max_batch or seconds > self.limits.batch_seconds):
                break
            items.append(self._queue.popleft())
        return items

    def _work(self, items: list[_Item]) -> tuple[list[Logits | Exception], list[Run]]:
        """Run a batch in the inference thread.

        Returns:
            An answer or an error for each item, in order, and the runs of the network that did not fail.
        """
        answers: dict[_Item, Logits | Exception] = {}
        runs = []
        for self_gradient in (False, True):
            group = [item for item in items if item.self_gradient == self_gradient]
            if not group:
                continue
            pictures = sum(len(item.images) for item in group)
            try:
                begun = time.perf_counter()
                images = group[0].images if len(group) == 1 else np.concatenate([item.images for item in group])
                started = time.perf_counter()
                logits = self._run(images, self_gradient, any(item.with_gradient for item in group))
                ended = time.perf_counter()
                start = 0
                for item in group:
                    answers[item] = logits[start : start + len(item.images)]
                    start += len(item.images)
            except Exception as error:  # raised to those who wait; the batcher itself goes on
                logger.exception("a batch of %d pictures failed", pictures)
                answers.update(dict.fromkeys(group, error))
                continue
            queued = sum(begun - item.since for item in group)
            output_seconds = time.perf_counter() - ended
            seconds = ended - started
            runs.append(Run(self_gradient, pictures, len(group), queued, started - begun, seconds, output_seconds))
            self._measure(self_gradient, seconds / pictures)
        return [answers[item] for item in items], runs

    def _measure(self, self_gradient: bool, seconds_each: float) -> None:
        """Update the running mean of the seconds a picture takes."""
        known = self._seconds_each[self_gradient]
        new = seconds_each if known == 0 else (1 - _NEW_SHARE) * known + _NEW_SHARE * seconds_each
        self._seconds_each[self_gradient] = new


def _end_process(task: "asyncio.Task[None]") -> None:
    """End the process, unless the batcher's task was cancelled by `stop`."""
    if not task.cancelled():
        logger.critical("the batcher has failed, so this process ends", exc_info=task.exception())
        os._exit(1)
