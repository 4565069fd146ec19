"""Turn a chunk of inputs into rows: the one step of a run, whoever hands the chunks out."""

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from sgn_serve.classify.background import BackgroundCall
from sgn_serve.classify.cage import READ_BYTES, Cage, Decoded, Pixels, input_batch
from sgn_serve.classify.errors import ClassifyError
from sgn_serve.classify.items import Item
from sgn_serve.classify.reading import Reader, Unread
from sgn_serve.classify.rows import Row, answer_rows, error_row
from sgn_serve.classify.window import Window
from sgn_serve.common.error_text import one_line
from sgn_serve.inference.classifier import Classifier, Logits, needs_second_pass
from sgn_serve.inference.graph import Graph, read_graph
from sgn_serve.pictures.errors import PictureRefused
from sgn_serve.process.cores import usable_cores
from sgn_serve.records import AUTO, Mode, ModelCard, SelfGradient, mode_of
from sgn_serve.serving.engine_choice import EngineChoice, engine_used, start_chosen
from sgn_serve.serving.model_card import model_card
from sgn_serve.serving.predictor import picture_options
from sgn_serve.settings import Settings

AT_ONCE = 2
"""Batches that run at once, at most. They share the threads. More of them would take more memory."""
_BATCHES_AHEAD = 3
"""Further batches, whose pictures are being decoded or are waiting."""
_BYTES_AHEAD = 64 << 20

Result = TypeVar("Result")
_Count = Callable[[int], None]
"""A function that is told how many more inputs have their row."""


@dataclass(frozen=True)
class _Part:
    """Inputs of a chunk that were read together.

    Attributes:
        numbers: Their positions in the chunk.
        decoded: Their pixels, or the reasons why they are refused.
    """

    numbers: range
    decoded: "asyncio.Task[list[Decoded | Unread]]"


@dataclass(frozen=True)
class _Batch:
    """Pictures that go through the network together.

    Attributes:
        numbers: Their positions in the chunk.
        images: Their pixels.
    """

    numbers: list[int] = field(default_factory=list)
    images: list[Pixels] = field(default_factory=list)


class ChunkClassifier:
    """Classifies chunks of inputs. The rows of a chunk depend on nothing but the chunk, the settings and the model.

    Batches are filled in the inputs' order and never with pictures of two chunks. So a run that was interrupted gives
    the rows of one that was not. While one chunk runs, the files of the next one are read and decoded.

    It can be pickled: its copy holds the settings alone. It starts an engine and decoders of its own when it is called.
    So an actor of another machine can hold one.

    Args:
        settings: The settings of the service. Those of HTTP, and those that make batches for requests, do not count.
        choice: The engine to run on. None chooses one, by time among others, so that another run may choose another.

    Attributes:
        settings: The same.
        choice: The engine that it runs on, None before the start where none was given.
        answered: Number of inputs that have their row, of all chunks. Other threads may read it.
        ahead: Chunks to submit before the oldest is written: one to be written, and the next one.
    """

    ahead = 2

    def __init__(self, settings: Settings, choice: EngineChoice | None = None):
        self.settings = settings
        self.choice = choice
        self.answered = 0
        self._running: _Running | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Return what a copy needs."""
        return {"settings": self.settings, "choice": self.choice}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["settings"], state["choice"])  # type: ignore[misc]

    def __call__(self, items: Sequence[Item]) -> list[Row]:
        """Return a row for each item, in their order.

        Raises:
            ServingError: The model cannot be used, or cannot answer so large a batch.
        """
        return self.submit(items).result()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def card(self) -> ModelCard:
        """The model's card. It must have been started."""
        assert self._running is not None, "the card comes with the start"
        return self._running.card

    def start(self) -> None:
        """Start the engine and the decoders, once.

        Raises:
            ServingError: The model cannot be used.
            OSError: The decoders do not start, or the model's file cannot be read.
        """
        if self._running is None:
            self._running = _Running(self.settings, self.choice)
            self.choice = self._running.choice

    def submit(self, items: Sequence[Item]) -> "Future[list[Row]]":
        """Begin a chunk, and return its rows to come. Two chunks at a time keep the network busy.

        The result raises ClassifyError where the model cannot answer so large a batch.

        Raises:
            ServingError: The model cannot be used.
        """
        self.start()
        assert self._running is not None, "it has just been started"
        return self._running.submit(items, self._count)

    def close(self) -> None:
        """End the decoders and the threads. Chunks that are not done are cancelled."""
        running, self._running = self._running, None
        if running is not None:
            running.close()

    def _count(self, pictures: int) -> None:
        self.answered += pictures


class _Running:
    """An engine, decoders, and the event loop that feeds them, in a thread of its own."""

    def __init__(self, settings: Settings, choice: EngineChoice | None):
        # Engines build and try a network in foreign code, for minutes in bad cases.
        started = BackgroundCall(_start_engine, settings, choice)
        graph, self._classifier, self.choice = started.result()
        self.card = model_card(graph, settings, engine=engine_used(self._classifier, self.choice, settings))
        self._settings = settings
        self._batch = settings.max_batch
        self._block: SelfGradient = settings.self_gradient if graph.description.has_block else False
        self._mode: Mode = mode_of(self._block)
        given = "decoders" in settings.model_fields_set
        processes = settings.decoders if given else usable_cores()
        self._at_once = self._classifier.at_once
        self._inference = ThreadPoolExecutor(self._at_once, thread_name_prefix="inference")
        self._reading = ThreadPoolExecutor(1, thread_name_prefix="reading")
        self._reader = Reader(settings.max_bytes)
        self._loop = asyncio.new_event_loop()
        # The decoders end with the thread that starts them, so it lives as long as they do.
        self._thread = threading.Thread(target=self._loop.run_forever, name="decoding", daemon=True)
        self._thread.start()
        try:
            self._cage, self._window, self._feeding = self._wait_for(self._prepare(processes))
        except BaseException:
            self._wait_for(self._end_tasks())  # Ctrl-C and SIGTERM leave the preparing behind
            self._end_threads()
            raise

    def submit(self, items: Sequence[Item], count: _Count) -> "Future[list[Row]]":
        return asyncio.run_coroutine_threadsafe(self._classify(items, count), self._loop)

    def close(self) -> None:
        self._reader.give_up()  # or its thread would wait for an object store
        self._wait_for(self._stop())
        self._end_threads()

    def _wait_for(self, task: Coroutine[Any, Any, Result]) -> Result:
        return asyncio.run_coroutine_threadsafe(task, self._loop).result()

    def _end_threads(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        self._inference.shutdown()
        self._reading.shutdown()
        self._reader.close()

    async def _prepare(self, processes: int) -> tuple[Cage, Window, asyncio.Lock]:
        cage = Cage(picture_options(self.card, self._settings), self._settings, processes)
        try:
            await cage.start()
        except BaseException:
            await cage.close()
            raise
        most_bytes = max(_BYTES_AHEAD, 2 * processes * self._settings.max_bytes)
        ahead = self._at_once + _BATCHES_AHEAD
        return cage, Window(ahead * max(self._batch, cage.places), most_bytes), asyncio.Lock()

    async def _stop(self) -> None:
        await self._end_tasks()
        await self._cage.close()

    @staticmethod
    async def _end_tasks() -> None:
        own = asyncio.current_task()
        others = [task for task in asyncio.all_tasks() if task is not own]
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    async def _classify(self, items: Sequence[Item], count: _Count) -> list[Row]:
        """Return the rows of a chunk."""
        rows: list[Row | None] = [None] * len(items)
        decoding: asyncio.Queue[_Part | None] = asyncio.Queue()
        feeder = asyncio.create_task(self._feed(items, decoding))
        batch = _Batch()
        running: deque[asyncio.Future[None]] = deque()
        try:
            while (part := await decoding.get()) is not None:
                for number, decoded in zip(part.numbers, await part.decoded, strict=True):
                    if isinstance(decoded, np.ndarray):
                        batch.numbers.append(number)
                        batch.images.append(decoded)
                    else:
                        rows[number] = error_row(items[number].name, self._mode, decoded.code, _message(decoded))
                        self._window.give(1, 0)
                        count(1)
                    if len(batch.numbers) == self._batch:
                        running.append(self._begin(batch, items, rows, count))
                        batch = _Batch()
                        if len(running) > self._at_once + 1:  # those that run, and the next one
                            await running.popleft()
            await feeder
            if batch.numbers:
                running.append(self._begin(batch, items, rows, count))
            for one in running:
                await one
        except BaseException:
            feeder.cancel()
            await asyncio.gather(feeder, *running, return_exceptions=True)
            raise
        return [row for row in rows if row is not None]

    async def _feed(self, items: Sequence[Item], decoding: asyncio.Queue[_Part | None]) -> None:
        """Read the files of a chunk, a few at a time, and have them decoded. The chunks take turns."""
        try:
            async with self._feeding:
                start = 0
                while start < len(items):
                    some = items[start : start + self._cage.places]
                    contents = await self._loop.run_in_executor(self._reading, self._reader.read_some, some, READ_BYTES)
                    file_bytes = sum(len(content) for content in contents if isinstance(content, bytes))
                    await self._window.take(len(contents), file_bytes)
                    numbers = range(start, start + len(contents))
                    decoded = asyncio.create_task(self._decode(contents, file_bytes))
                    decoding.put_nowait(_Part(numbers, decoded))
                    start += len(contents)
        finally:
            decoding.put_nowait(None)

    async def _decode(self, contents: list[bytes | Unread], file_bytes: int) -> "list[Decoded | Unread]":
        answers: list[Decoded | Unread | None] = [one if isinstance(one, Unread) else None for one in contents]
        numbers = [number for number, one in enumerate(answers) if one is None]
        try:
            files = [content for content in contents if isinstance(content, bytes)]
            contents.clear()
            decoded = await self._cage.decode(files) if files else []
        finally:
            self._window.give(0, file_bytes)
        for number, one in zip(numbers, decoded, strict=True):
            answers[number] = one
        return [one for one in answers if one is not None]

    def _begin(
        self, batch: _Batch, items: Sequence[Item], rows: list[Row | None], count: _Count
    ) -> "asyncio.Future[None]":
        """Have a full batch classified, and its rows put in their places."""
        paths = [items[number].name for number in batch.numbers]

        async def run() -> None:
            try:
                answers = await self._loop.run_in_executor(self._inference, self._answer, paths, batch.images)
            finally:
                self._window.give(len(paths), 0)
            for number, row in zip(batch.numbers, answers, strict=True):
                rows[number] = row
            count(len(paths))

        return asyncio.ensure_future(run())

    def _answer(self, paths: list[str], images: list[Pixels]) -> list[Row]:
        classifier = self._classifier
        try:
            logits = run_network(classifier, input_batch(images), self._block, self._margin)
            _check_shapes(logits, (len(images), len(classifier.description.class_names)))
        except Exception as error:  # the engines' exceptions share no base class
            raise ClassifyError(
                f"{self._settings.model_path}: {classifier.runs_on} cannot answer a batch of {len(images)} "
                f"({one_line(error)}); give a smaller --max-batch, or export it again"
            ) from None
        return answer_rows(paths, logits, classifier.description.class_names, self._settings.top_k, self._mode)

    @property
    def _margin(self) -> float:
        return 0.0 if self.card.auto is None else self.card.auto.margin


def _start_engine(settings: Settings, choice: EngineChoice | None) -> tuple[Graph, Classifier, EngineChoice]:
    graph = read_graph(settings.model_path)
    return graph, *start_chosen(graph, settings, choice, AT_ONCE)


def run_network(classifier: Classifier, images: NDArray[np.float32], block: SelfGradient, margin: float) -> Logits:
    """Return the logits of a batch. With AUTO, the pictures without a clear plain answer go through once more.

    Args:
        classifier: The network.
        images: RGB in [0, 1], (N, 3, H, W).
        block: Whether the block is on, or AUTO.
        margin: Threshold of AUTO.
    """
    if block != AUTO:
        return classifier.logits(images, bool(block))
    plain = classifier.logits(images, False).plain
    chosen = needs_second_pass(plain, margin)
    logits = plain.copy()
    if chosen.any():
        corrected = classifier.logits(images[chosen], True).corrected
        assert corrected is not None, "the block was on"
        logits[chosen] = corrected
    return Logits(plain, logits, None, chosen)


def _check_shapes(logits: Logits, expected: tuple[int, int]) -> None:
    for values in (logits.plain, logits.corrected):
        if values is not None and values.shape != expected:
            raise ValueError(f"its logits are of shape {values.shape} and not {expected}")


def _message(error: PictureRefused | Unread) -> str:
    return error.message if isinstance(error, Unread) else str(error)
