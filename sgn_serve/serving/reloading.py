"""Replace the model that is served, without a request going unanswered."""

import asyncio
import logging
from contextlib import suppress
from pathlib import Path

from pydantic import BaseModel, Field

from sgn_serve.common.error_text import one_line
from sgn_serve.common.graph_format import examples_path, figures_path, file_sha256
from sgn_serve.common.refusals import Refusal, ServingError
from sgn_serve.inference.graph import MOST_GRAPH_BYTES, read_graph
from sgn_serve.process.garbage import freeze_long_lived_objects
from sgn_serve.serving.predictor import Predictor, PredictorSlot
from sgn_serve.serving.trial import check_unchanged, try_model_beside
from sgn_serve.settings import Settings
from sgn_serve.telemetry import metrics

logger = logging.getLogger("bentoml.sgn_serve")

_CHECK_SECONDS = 0.05
"""Time between two looks whether a replaced predictor still has pictures to answer."""


class Reloaded(BaseModel):
    """Tell the outcome of a reload."""

    outcome: str = Field(description="swapped, or unchanged where the files are those that are served already")
    model: str = Field(description="SHA-256 of the checkpoint that the served graph was exported from")
    graph_sha256: str = Field(description="SHA-256 of the graph's file")
    previous_graph_sha256: str = Field(description="of the one that was served before")


class Reloader:
    """Serve what the model's file holds now.

    The new network is tried in a process of its own (sgn_serve/serving/trial.py), then loaded and run once. Meanwhile
    the old one goes on answering. Then it takes its place between two requests, and the old one ends with the last
    request that it has taken.

    Args:
        slot: Where the predictor is replaced.
    """

    def __init__(self, slot: PredictorSlot):
        self._slot = slot
        self._lock = asyncio.Lock()
        self._served: tuple[str, ...] | None = None
        """Fingerprint of the files that are served, None where they may have changed while they were read."""
        self._tasks: set[asyncio.Task[None]] = set()

    def remember(self, before: tuple[str, ...]) -> None:
        """Store which files are served, once the predictor is in its slot.

        Args:
            before: Their fingerprint, taken before they were read.
        """
        self._served = before if before[0] == self._slot.predictor.card.graph_sha256 else None

    def reload_soon(self) -> None:
        """Reload in a task of its own, for SIGHUP. The log tells the outcome."""

        async def reload() -> None:
            with suppress(Refusal):
                await self.reload()

        self._keep(asyncio.create_task(reload()))

    async def catch_up(self) -> None:
        """Reload if the files have changed since they were read.

        A worker calls it when it begins to listen for SIGHUP: a signal that came while it started did not reach it.
        """
        if await asyncio.to_thread(fingerprint, self._slot.predictor.settings.model_path) != self._served:
            with suppress(Refusal):  # it is in the log
                await self.reload()

    async def reload(self) -> Reloaded:
        """Swap the model if its files have changed.

        Raises:
            Refusal: The new model cannot be served. The old one goes on being served.
        """
        async with self._lock:
            try:
                reloaded = await self._reload()
            except Refusal as refused:
                metrics.RELOADS.labels(metrics.REFUSED).inc()
                logger.error("%s", refused.message)
                raise
            metrics.RELOADS.labels(reloaded.outcome).inc()
            logger.info("reload: %s, graph %s", reloaded.outcome, reloaded.graph_sha256)
            return reloaded

    async def _reload(self) -> Reloaded:
        old = self._slot.predictor
        path = old.settings.model_path
        found = await asyncio.to_thread(fingerprint, path)
        if found == self._served:
            return _outcome(metrics.UNCHANGED, old, old)
        new = await self._start(old.settings)
        # Another file may have come while this one was tried, and another reload for it waits.
        now = await asyncio.to_thread(fingerprint, path)
        self._served = now if now[0] == new.card.graph_sha256 and now[1:] == found[1:] else None
        self._slot.put(new)
        self._keep(asyncio.create_task(_retire(old)))
        return _outcome(metrics.SWAPPED, new, old)

    async def _start(self, settings: Settings) -> Predictor:
        """Return a predictor of what the model's file holds now, ready to answer."""
        try:
            tried = await try_model_beside(settings)
            graph = await asyncio.to_thread(read_graph, settings.model_path)
            check_unchanged(graph, tried.graph_sha256)
            new = await asyncio.to_thread(Predictor, graph, settings, tried)
            logger.info("%s", tried.summary)
            for note in new.card.notes:
                logger.warning("%s", note)
        except ServingError as error:
            raise _refused(str(error)) from None
        except OSError as error:  # the file has gone while it was read
            raise _refused(f"{settings.model_path}: {error.strerror}") from None
        except Exception as error:  # whatever else is wrong with it, it is no reason to stop serving the old one
            logger.exception("a new model could not be loaded")
            raise _refused(f"{settings.model_path}: {type(error).__name__}, see the log") from None
        try:
            await new.start()
        except Exception as error:  # whatever ONNX Runtime makes of it
            await new.stop()
            raise _refused(f"{settings.model_path}: it does not answer ({one_line(error)})") from None
        return new

    def _keep(self, task: asyncio.Task[None]) -> None:
        """Hold a task until it is done: asyncio itself may drop a task that nobody holds."""
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


async def _retire(old: Predictor) -> None:
    """Stop a replaced predictor once its pending requests are answered."""
    while old.batcher.pending:
        await asyncio.sleep(_CHECK_SECONDS)
    await old.stop()
    del old  # this was the last reference to it
    freeze_long_lived_objects()


def _outcome(outcome: str, now: Predictor, before: Predictor) -> Reloaded:
    return Reloaded(
        outcome=outcome,
        model=now.card.model,
        graph_sha256=now.card.graph_sha256,
        previous_graph_sha256=before.card.graph_sha256,
    )


def _refused(message: str) -> Refusal:
    return Refusal("model_refused", f"the new model cannot be served, the old one still is: {message}")


def fingerprint(model: Path) -> tuple[str, ...]:
    """Return the SHA-256 digests of the graph, and of the figures and examples beside it.

    An absent file gives an empty string. So does a file that cannot be a graph. A pipe or device might never end, and a
    file of over 2 GiB takes minutes to read. The trial refuses it.
    """
    return tuple(_sha256(path) for path in (model, figures_path(model), examples_path(model)))


def _sha256(path: Path) -> str:
    try:
        return file_sha256(path) if path.is_file() and path.stat().st_size <= MOST_GRAPH_BYTES else ""
    except OSError:
        return ""
