"""Dynamic batching: pictures of requests that arrive at about the same time go through the network together.

While one batch runs, the next one gathers. Under load, no request waits just to fill a batch.

The plain pass of self_gradient=auto runs first in a batch, together with the requests whose block is off. Those of its
pictures whose answer is not clear go on, together with the requests whose block is on.

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

import numpy as np
from numpy.typing import NDArray

from sgn_serve.common.refusals import Overloaded
from sgn_serve.inference.batch_contract import Answered, BatchLimits, BatchRun, LogitsFunction, Observer
from sgn_serve.inference.classifier import Logits, needs_second_pass
from sgn_serve.records import AUTO, SelfGradient

logger = logging.getLogger("bentoml.sgn_serve")

_NEW_SHARE = 0.2
"""Weight of the newest measurement in running means."""


@dataclass(frozen=True)
class _Worked:
    """Results that the inference thread made of a batch.

    Attributes:
        answers: An answer or an error for each item, in order.
        runs: The runs of the network that did not fail.
        begun: When it began, by time.perf_counter.
        ended: When it ended.
    """

    answers: list[Logits | Exception]
    runs: list[BatchRun]
    begun: float
    ended: float


@dataclass(frozen=True, eq=False)
class _Item:
    """Pictures of one request in the queue."""

    images: NDArray[np.float32]
    self_gradient: SelfGradient
    with_gradient: bool
    answer: "asyncio.Future[Answered]"
    since: float = field(default_factory=time.perf_counter)


@dataclass(frozen=True, eq=False)
class _Part:
    """Pictures of an item that go through the network together.

    Attributes:
        item: The item.
        images: All of its pictures, or those that need the second pass.
        since: When they began to wait for it.
    """

    item: _Item
    images: NDArray[np.float32]
    since: float


class Place:
    """Reserved room for some pictures, made by `Batcher.reserve`.

    Leaving its `with` block gives back the room that was not used. Room that is reserved and not yet used tells the
    batcher that more pictures are on their way.
    """

    def __init__(self, batcher: "Batcher", pictures: int):
        self._batcher = batcher
        self._left = pictures

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

    async def run(
        self, images: NDArray[np.float32], self_gradient: SelfGradient, with_gradient: bool = False
    ) -> Answered:
        """Put pictures into the queue and wait for their logits.

        Args:
            images: (n, 3, H, W) in [0, 1], at most as many as there is reserved room for.
            self_gradient: Whether the block is on. AUTO needs a batcher that has an auto_margin.
            with_gradient: Whether the self-gradient is wanted too, which needs the block on.

        Returns:
            The logits of these n pictures, and what they waited for.

        Raises:
            ValueError: AUTO is asked for without a threshold, or with the self-gradient.
        """
        if self_gradient == AUTO and (self._batcher.auto_margin is None or with_gradient):
            raise ValueError("auto needs a threshold, and gives no self-gradient")
        self._left -= len(images)
        return await self._batcher._enqueue(images, self_gradient, with_gradient)


class Batcher:
    """Runs pictures in batches, in a thread of its own, so that two runs never compete for the cores.

    An error in a batch is raised to the requests in that batch. If the batcher's own task ends nevertheless, it ends
    the process: no request would ever be answered again, while a supervisor starts another worker.

    Args:
        run: The network. It is called in the batcher's thread with a batch (n, 3, H, W). A batch that holds requests
            of both kinds is two calls, one with the block off and one with it on.
        limits: Limits of the batches and of the queue.
        observer: Callbacks for metrics.
        auto_margin: Threshold of self_gradient=auto, see needs_second_pass. None where nobody may ask for that.
    """

    def __init__(
        self,
        run: LogitsFunction,
        limits: BatchLimits,
        observer: Observer | None = None,
        auto_margin: float | None = None,
    ):
        self._run = run
        self.limits = limits
        self.auto_margin = auto_margin
        self._second_share = 1.0
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

    async def _enqueue(self, images: NDArray[np.float32], self_gradient: SelfGradient, with_gradient: bool) -> Answered:
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
        try:
            worked = await asyncio.get_running_loop().run_in_executor(self._executor, self._work, items)
        except asyncio.CancelledError:  # the batcher is being stopped: nobody would answer these any more
            for item in items:
                item.answer.cancel()
                self._leave(len(item.images), waiting=False)
            raise
        except Exception as error:  # there may be no memory for a thread
            logger.exception("a batch of %d pictures could not be run", pictures)
            worked = _Worked([error] * len(items), [], started, started)
        seconds: dict[bool, list[float]] = {False: [], True: []}
        for item, answer in zip(items, worked.answers, strict=True):
            self._leave(len(item.images), waiting=False)
            failed = isinstance(answer, Exception)
            seconds[failed].append(time.perf_counter() - item.since)
            if item.answer.cancelled():
                continue
            if isinstance(answer, Exception):
                item.answer.set_exception(answer)
            else:
                queued, inferred = worked.begun - item.since, worked.ended - worked.begun
                item.answer.set_result(Answered(answer, pictures, queued, inferred))
        # Later, so that neither the answers nor the next batch wait for it: the requests' tasks are scheduled already.
        asyncio.get_running_loop().call_soon(self._tell_answered, worked.runs, seconds)

    def _tell_answered(self, runs: list[BatchRun], seconds: dict[bool, list[float]]) -> None:
        """Tell the observer of a batch's runs, and of its requests' seconds by whether they failed."""
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
            seconds += len(item.images) * self._expected_seconds(item.self_gradient)
            if items and (pictures > self.limits.max_batch or seconds > self.limits.batch_seconds):
                break
            items.append(self._queue.popleft())
        return items

    def _expected_seconds(self, self_gradient: SelfGradient) -> float:
        """Return how long a picture will take, from the recent running times."""
        if isinstance(self_gradient, bool):
            return self._seconds_each[self_gradient]
        return self._seconds_each[False] + self._second_share * self._seconds_each[True]

    def _work(self, items: list[_Item]) -> _Worked:
        """Run a batch in the inference thread."""
        begun = time.perf_counter()
        answers: dict[_Item, Logits | Exception] = {}
        runs: list[BatchRun] = []
        plain = [_Part(item, item.images, item.since) for item in items if item.self_gradient is not True]
        answers |= self._run_together(plain, False, runs)
        chosen = self._choose(items, answers)
        now = time.perf_counter()
        second = [_Part(item, item.images, item.since) for item in items if item.self_gradient is True]
        second += [_Part(item, item.images[which], now) for item, which in chosen.items() if which.any()]
        corrected = self._run_together(second, True, runs)
        for item, answer in corrected.items():
            plain_answer = answers.get(item)
            if isinstance(answer, Logits) and isinstance(plain_answer, Logits):
                answers[item] = _merged(plain_answer, answer, chosen[item])
            else:
                answers[item] = answer
        return _Worked([answers[item] for item in items], runs, begun, time.perf_counter())

    def _choose(self, items: list[_Item], answers: dict[_Item, Logits | Exception]) -> dict[_Item, NDArray[np.bool_]]:
        """Find the pictures of auto items that need the second pass, and mark the items' answers as auto's.

        Args:
            items: All items of the batch.
            answers: The plain ones. Those of auto items are replaced.

        Returns:
            The pictures of each auto item that need it, (n) each. Items whose plain pass failed are left out.
        """
        chosen = {}
        for item in items:
            answer = answers.get(item)
            if item.self_gradient == AUTO and isinstance(answer, Logits):
                assert self.auto_margin is not None, "checked when it was put into the queue"
                chosen[item] = needs_second_pass(answer.plain, self.auto_margin)
                answers[item] = Logits(answer.plain, answer.plain, None, np.zeros(len(answer.plain), np.bool_))
        if chosen:
            share = sum(int(which.sum()) for which in chosen.values()) / sum(map(len, chosen.values()))
            self._second_share = (1 - _NEW_SHARE) * self._second_share + _NEW_SHARE * share
        return chosen

    def _run_together(
        self, parts: list[_Part], self_gradient: bool, runs: list[BatchRun]
    ) -> dict[_Item, Logits | Exception]:
        """Run the network once, and return the answer of each part's item, or the error. A good run is added to runs.

        Args:
            parts: The pictures. Nothing is run where there are none.
            self_gradient: Whether the block is on.
            runs: The runs of this batch so far.
        """
        answers: dict[_Item, Logits | Exception] = {}
        if not parts:
            return answers
        pictures = sum(len(part.images) for part in parts)
        try:
            begun = time.perf_counter()
            images = parts[0].images if len(parts) == 1 else np.concatenate([part.images for part in parts])
            started = time.perf_counter()
            logits = self._run(images, self_gradient, any(part.item.with_gradient for part in parts))
            ended = time.perf_counter()
            start = 0
            for part in parts:
                answers[part.item] = logits[start : start + len(part.images)]
                start += len(part.images)
        except Exception as error:  # raised to those who wait; the batcher itself goes on
            logger.exception("a batch of %d pictures failed", pictures)
            return dict.fromkeys((part.item for part in parts), error)
        runs.append(
            BatchRun(
                self_gradient=self_gradient,
                pictures=pictures,
                requests=len(parts),
                queue_seconds=sum(begun - part.since for part in parts),
                input_seconds=started - begun,
                infer_seconds=ended - started,
                output_seconds=time.perf_counter() - ended,
                auto_pictures=sum(len(part.images) for part in parts if part.item.self_gradient == AUTO),
            )
        )
        self._measure(self_gradient, (ended - started) / pictures)
        return answers

    def _measure(self, self_gradient: bool, seconds_each: float) -> None:
        """Update the running mean of the seconds a picture takes."""
        known = self._seconds_each[self_gradient]
        new = seconds_each if known == 0 else (1 - _NEW_SHARE) * known + _NEW_SHARE * seconds_each
        self._seconds_each[self_gradient] = new


def _merged(plain: Logits, corrected: Logits, chosen: NDArray[np.bool_]) -> Logits:
    """Return the answer of self_gradient=auto.

    Args:
        plain: The plain answer to all pictures of an item, (n, classes).
        corrected: The answer of both passes to those that are chosen.
        chosen: Which ones these are, (n).
    """
    assert corrected.corrected is not None, "the block was on"
    logits = plain.plain.copy()
    logits[chosen] = corrected.corrected
    return Logits(plain.plain, logits, None, chosen)


def _end_process(task: "asyncio.Task[None]") -> None:
    """End the process, unless the batcher's task was cancelled by `stop`."""
    if not task.cancelled():
        logger.critical("the batcher has failed, so this process ends", exc_info=task.exception())
        os._exit(1)
