"""Another model in place of the one that is served, without a request going unanswered."""

import asyncio
import hashlib
import logging
from contextlib import suppress
from http import HTTPStatus
from pathlib import Path

from pydantic import BaseModel, Field

from sgn_serve.http.errors import RequestError
from sgn_serve.inference.engines import EngineError
from sgn_serve.inference.graph import GraphError, read_graph
from sgn_serve.process.garbage import quiet_garbage
from sgn_serve.serving.predictor import Predictor, Serving
from sgn_serve.settings import Settings
from sgn_serve.telemetry import metrics

logger = logging.getLogger("bentoml.sgn_serve")

_LEAVING_SECONDS = 0.05


class Reloaded(BaseModel):
    """What came of a reload."""

    outcome: str = Field(description="swapped, or unchanged where the files are those that are served already")
    model: str = Field(description="SHA-256 of the checkpoint that the served graph was exported from")
    graph_sha256: str = Field(description="SHA-256 of the graph's file")
    previous_graph_sha256: str = Field(description="of the one that was served before")


class Reloader:
    """Serves what the model's file holds now.

    The new network is read, checked and sent a picture through while the old one goes on answering. Then it takes its
    place between two requests, and the old one ends with the last request that it has taken.
    """

    def __init__(self, serving: Serving):
        self._serving = serving
        self._lock = asyncio.Lock()
        self._served: tuple[str, str] | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    def remember(self, served: tuple[str, str]) -> None:
        """Says what is being served: the fingerprint of the files, taken before they were read."""
        self._served = served

    def reload_soon(self) -> None:
        """For SIGHUP: what comes of it is in the log."""

        async def reload() -> None:
            with suppress(RequestError):
                await self.reload()

        self._keep(asyncio.create_task(reload()))

    async def catch_up(self) -> None:
        """Reloads if the files are others than those that were read, and does nothing where they are the same.

        For a worker that begins to listen for SIGHUP: one that came while it started did not reach it.
        """
        if await asyncio.to_thread(fingerprint, self._serving.predictor.settings.model_path) != self._served:
            with suppress(RequestError):  # it is in the log
                await self.reload()

    async def reload(self) -> Reloaded:
        """Swaps the model if its files have changed.

        raises RequestError for one that cannot be served; the old one goes on being served
        """
        async with self._lock:
            try:
                reloaded = await self._reload()
            except RequestError as refused:
                metrics.RELOADS.labels(metrics.REFUSED).inc()
                logger.error("%s", refused.message)
                raise
            metrics.RELOADS.labels(reloaded.outcome).inc()
            logger.info("reload: %s, graph %s", reloaded.outcome, reloaded.graph_sha256)
            return reloaded

    async def _reload(self) -> Reloaded:
        old = self._serving.predictor
        path = old.settings.model_path
        found = await asyncio.to_thread(fingerprint, path)
        if found == self._served:
            return _told(metrics.UNCHANGED, old, old)
        new = await self._start(old.settings)
        self._served = found
        self._serving.put(new)
        self._keep(asyncio.create_task(_leave(old)))
        return _told(metrics.SWAPPED, new, old)

    async def _start(self, settings: Settings) -> Predictor:
        """The new one, ready."""
        try:
            new = await asyncio.to_thread(lambda: Predictor(read_graph(settings.model_path), settings))
        except (GraphError, EngineError) as error:
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
            raise _refused(
                f"{settings.model_path}: it does not answer ({' '.join(str(error).split())[:300]})"
            ) from None
        return new

    def _keep(self, task: asyncio.Task[None]) -> None:
        """asyncio itself may drop a task that nobody holds."""
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


async def _leave(old: Predictor) -> None:
    """Ends a predictor when nobody waits for it; nobody comes any more."""
    while old.batcher.pending:
        await asyncio.sleep(_LEAVING_SECONDS)
    await old.stop()
    del old  # this was the last reference to it
    quiet_garbage()


def _told(outcome: str, now: Predictor, before: Predictor) -> Reloaded:
    return Reloaded(
        outcome=outcome,
        model=now.card.model,
        graph_sha256=now.card.graph_sha256,
        previous_graph_sha256=before.card.graph_sha256,
    )


def _refused(message: str) -> RequestError:
    return RequestError(
        HTTPStatus.CONFLICT, "model_refused", f"the new model cannot be served, the old one still is: {message}"
    )


def fingerprint(model: Path) -> tuple[str, str]:
    """Of the graph and of the figures beside it; of a file that is not there, of nothing."""
    return _sha256(model), _sha256(model.with_suffix(".json"))


def _sha256(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return ""
