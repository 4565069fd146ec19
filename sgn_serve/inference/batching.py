"""Micro-batching within the process: pictures of requests that come at the same time go through the network together.

While one batch runs, the next one gathers, so that under load nobody waits for the sake of a batch. Only an idle
network waits, and only for company that is on its way: for half as many pictures as were lately under way together,
and for a few milliseconds at most. How many pictures a batch may hold follows from how long they lately took, so that
a slow network does not make everybody wait for a long batch, and a fast one gets large ones.
"""

import asyncio
import logging
import math
import os
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from sgn_serve.inference.classifier import Logits
from sgn_serve.refusals import Overloaded

logger = logging.getLogger("bentoml.sgn_serve")

_NEW_SHARE = 0.2
"""Weight of the newest measurement in running means."""


class Observer:
    """What a batcher tells while it works, always on the event loop; this one does not listen.

    What it raises concerns nobody who waits for an answer: the first time it is logged.
    """

    def queued(self, change: int) -> None:
        """So many more pictures, or fewer, have been accepted and wait for a batch."""

    def took(self, pictures: int, waited: list[float]) -> None:
        """A batch begins: so many pictures, and for each of its items the seconds since it was decoded."""

    def ran(self, self_gradient: bool, pictures: int, seconds: float) -> None:
        """The network has run once."""


class Run(Protocol):
    """What a batch is run with: Classifier.logits, or something like it."""

    def __call__(self, images: NDArray[np.float32], self_gradient: bool, with_gradient: bool) -> Logits: ...


@dataclass(frozen=True)
class BatchLimits:
    """max_batch:   pictures in one batch, at most
    batch_seconds:  how long one batch may take: what a batch holds adapts to it (one request always goes)
    max_wait:       seconds that an idle network waits for company, at most
    max_queue:      pictures accepted and not yet answered, at most
    """

    max_batch: int = 32
    batch_seconds: float = 0.1
    max_wait: float = 0.004
    max_queue: int = 32


@dataclass(frozen=True, eq=False)
class _Item:
    images: NDArray[np.float32]
    self_gradient: bool
    with_gradient: bool
    answer: "asyncio.Future[tuple[Logits, int]]"
    since: float = field(default_factory=time.perf_counter)


class Place:
    """Room for some pictures, from Batcher.reserve; what is not used of it is given back when the `with` block ends.

    Room that is taken and not used yet tells the batcher that company is on its way.
    """

    def __init__(self, batcher: "Batcher", pictures: int):
        self._batcher = batcher
        self._left = pictures
        self.batch_size = 0
        """Pictures in the largest batch that any of these were in."""

    def __enter__(self) -> "Place":
        return self

    def __exit__(self, *_: object) -> None:
        self.give_back(self._left)

    def give_back(self, pictures: int) -> None:
        """Says that so many of the pictures will not come."""
        self._left -= pictures
        self._batcher._leave(pictures)

    async def run(self, images: NDArray[np.float32], self_gradient: bool, with_gradient: bool = False) -> Logits:
        """Waits for a batch and for its run.

        images:  (n, 3, H, W), at most as many as there is room for
        returns: the logits of these n alone
        """
        self._left -= len(images)
        logits, batch_size = await self._batcher._enqueue(images, self_gradient, with_gradient)
        self.batch_size = max(self.batch_size, batch_size)
        return logits


class Batcher:
    """Runs pictures in batches, in one thread of its own, so that no two runs compete for cores.

    Whatever goes wrong with a batch is raised to those who wait for it. Should the batcher end nevertheless, so does
    the process: nobody would ever be answered again, while a supervisor starts another worker.

    run:     called with a batch (n, 3, H, W), from that thread; once with the block off and once with it on where the
             batch holds requests of both kinds
    observer: told of what it does
    """

    def __init__(self, run: Run, limits: BatchLimits, observer: Observer | None = None):
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
        """Pictures accepted and not yet answered."""

    def start(self) -> None:
        """Starts taking batches; called on the event loop."""
        self._task = asyncio.get_running_loop().create_task(self._serve(), name="batcher")
        self._task.add_done_callback(_end_process)

    async def stop(self) -> None:
        """Ends the batch that runs; whoever still waits is cancelled."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None
        for item in self._queue:
            item.answer.cancel()
            self._leave(len(item.images))
        self._queue.clear()
        await asyncio.to_thread(self._executor.shutdown)

    @property
    def alive(self) -> bool:
        """Whether it takes batches."""
        return self._task is not None and not self._task.done()

    def check_room(self, pictures: int = 1) -> None:
        """raises Overloaded where there is no room for so many more"""
        if self.pending + pictures > self.limits.max_queue:
            slowest = max(self._seconds_each.values())
            raise Overloaded(max(1, math.ceil(self.pending * slowest)))

    def reserve(self, pictures: int) -> Place:
        """Room for so many pictures. raises Overloaded"""
        self.check_room(pictures)
        self.pending += pictures
        self._tell(self._observer.queued, pictures)
        return Place(self, pictures)

    def _leave(self, pictures: int, waiting: bool = True) -> None:
        self.pending -= pictures
        if waiting:
            self._tell(self._observer.queued, -pictures)
        self._changed.set()

    def _tell(self, observe: Callable[..., None], *facts: object) -> None:
        try:
            observe(*facts)
        except Exception:
            if not self._observer_failed:
                logger.exception("the batcher's observer fails; this is told only once")
            self._observer_failed = True

    async def _enqueue(
        self, images: NDArray[np.float32], self_gradient: bool, with_gradient: bool
    ) -> tuple[Logits, int]:
        answer = asyncio.get_running_loop().create_future()
        self._queue.append(_Item(images, self_gradient, with_gradient, answer))
        self._changed.set()
        return await answer

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
        runs: list[tuple[bool, int, float]] = []
        try:
            answers, runs = await asyncio.get_running_loop().run_in_executor(self._executor, self._work, items)
        except Exception as error:  # such as no memory for a thread
            logger.exception("a batch of %d pictures could not be run", pictures)
            answers = [error] * len(items)
        for item, answer in zip(items, answers, strict=True):
            self._leave(len(item.images), waiting=False)
            if item.answer.cancelled():
                continue
            if isinstance(answer, Exception):
                item.answer.set_exception(answer)
            else:
                item.answer.set_result((answer, pictures))
        for run in runs:
            self._tell(self._observer.ran, *run)

    async def _gather(self) -> None:
        """Returns when there is something to run and no sense, or no time, to wait for more."""
        while not self._queue:
            self._changed.clear()
            await self._changed.wait()
        self._company = max(self.pending, (1 - _NEW_SHARE) * self._company + _NEW_SHARE * self.pending)
        deadline = time.perf_counter() + self.limits.max_wait
        # For half of them: while these run the others arrive, so that afterwards two groups take turns and the network
        # never waits for the answers to be sent and the next requests to be read.
        while self._queued() < min(self._company, self._batch_room()) / 2:
            left = deadline - time.perf_counter()
            if left <= 0:
                return
            self._changed.clear()
            try:
                await asyncio.wait_for(self._changed.wait(), left)
            except TimeoutError:
                return

    def _queued(self) -> int:
        return sum(len(item.images) for item in self._queue)

    def _batch_room(self) -> int:
        """Pictures that fit into one batch, going by how long they lately took."""
        slowest = max(self._seconds_each.values())
        in_time = int(self.limits.batch_seconds / slowest) if slowest else self.limits.max_batch
        return max(1, min(in_time, self.limits.max_batch))

    def _take(self) -> list[_Item]:
        """The longest queued first, as many as the limits allow; one at least, where there is one."""
        items: list[_Item] = []
        pictures, seconds = 0, 0.0
        while self._queue:
            item = self._queue[0]
            pictures += len(item.images)
            seconds += len(item.images) * self._seconds_each[item.self_gradient]
            if items and (pictures > self.limits.max_batch or seconds > self.limits.batch_seconds):
                break
            self._queue.popleft()
            if item.answer.cancelled():  # whoever asked has gone
                self._leave(len(item.images))
                pictures -= len(item.images)
            else:
                items.append(item)
        return items

    def _work(self, items: list[_Item]) -> tuple[list[Logits | Exception], list[tuple[bool, int, float]]]:
        """Answers a batch, in its order, and says with the block off and on how many pictures took how many seconds; in
        the inference thread.
        """
        answers: dict[_Item, Logits | Exception] = {}
        runs = []
        for self_gradient in (False, True):
            group = [item for item in items if item.self_gradient == self_gradient]
            if not group:
                continue
            pictures = sum(len(item.images) for item in group)
            try:
                images = group[0].images if len(group) == 1 else np.concatenate([item.images for item in group])
                started = time.perf_counter()
                logits = self._run(images, self_gradient, any(item.with_gradient for item in group))
                seconds = time.perf_counter() - started
                start = 0
                for item in group:
                    answers[item] = logits[start : start + len(item.images)]
                    start += len(item.images)
            except Exception as error:  # goes to those who wait: the batcher itself goes on
                logger.exception("a batch of %d pictures failed", pictures)
                answers.update(dict.fromkeys(group, error))
                continue
            runs.append((self_gradient, pictures, seconds))
            self._measure(self_gradient, seconds / pictures)
        return [answers[item] for item in items], runs

    def _measure(self, self_gradient: bool, seconds_each: float) -> None:
        known = self._seconds_each[self_gradient]
        new = seconds_each if known == 0 else (1 - _NEW_SHARE) * known + _NEW_SHARE * seconds_each
        self._seconds_each[self_gradient] = new


def _end_process(task: "asyncio.Task[None]") -> None:
    """After a batcher's task that was not told to end."""
    if not task.cancelled():
        logger.critical("the batcher has ended, and this process with it", exc_info=task.exception())
        os._exit(1)
