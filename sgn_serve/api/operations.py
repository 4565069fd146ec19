"""Routes for those who run the service: metrics, and a reload of the model."""

import asyncio
import os
import signal

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from sgn_serve.http.errors import RequestError
from sgn_serve.http.paths import METRICS
from sgn_serve.process.worker_start import supervisor_pid
from sgn_serve.serving.predictor import PredictorSlot
from sgn_serve.serving.reloading import Reloader
from sgn_serve.telemetry import metrics


class Operations:
    """Endpoints for operators.

    Args:
        slot: Holds the predictor.
        reloader: Replaces the predictor.
    """

    def __init__(self, slot: PredictorSlot, reloader: Reloader):
        self._slot = slot
        self._reloader = reloader

    def routes(self) -> list[BaseRoute]:
        """Return the routes."""
        return [
            Route(METRICS, self.metrics),
            Route("/admin/reload", self.reload, methods=["POST"]),
        ]

    async def metrics(self, request: Request) -> Response:
        """Return the metrics of all workers."""
        return Response(await asyncio.to_thread(metrics.exposition), headers={"content-type": metrics.CONTENT_TYPE})

    async def reload(self, request: Request) -> Response:
        """Reload this worker's model, and once that has worked, have the supervisor tell the other workers."""
        if not self._slot.predictor.settings.api_tokens:
            raise RequestError(
                "admin_closed",
                "this is closed while there is no token: set SGN_API_TOKEN, or send SIGHUP to reload the model",
            )
        reloaded = await self._reloader.reload()
        supervisor = supervisor_pid()
        if supervisor is not None:
            os.kill(supervisor, signal.SIGHUP)
        return Response(reloaded.model_dump_json(), media_type="application/json")
