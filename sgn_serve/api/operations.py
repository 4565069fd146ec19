"""What those who run the service ask it: its figures, and another model."""

import asyncio
import os
import signal

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from sgn_serve.http.errors import RequestError
from sgn_serve.http.paths import METRICS
from sgn_serve.process.parent import supervisor_pid
from sgn_serve.serving.predictor import PredictorSlot
from sgn_serve.serving.reloading import Reloader
from sgn_serve.telemetry import metrics


class Operations:
    """The endpoints."""

    def __init__(self, serving: PredictorSlot, reloader: Reloader):
        self._serving = serving
        self._reloader = reloader

    def routes(self) -> list[BaseRoute]:
        """All of them."""
        return [
            Route(METRICS, self.metrics),
            Route("/admin/reload", self.reload, methods=["POST"]),
        ]

    async def metrics(self, request: Request) -> Response:
        """The figures of all workers."""
        return Response(await asyncio.to_thread(metrics.exposition), headers={"content-type": metrics.CONTENT_TYPE})

    async def reload(self, request: Request) -> Response:
        """Swaps this worker's model; once that has worked, has the supervisor tell the other workers."""
        if not self._serving.predictor.settings.api_tokens:
            raise RequestError(
                "admin_closed",
                "this is closed while there is no token: set SGN_API_TOKEN, or send SIGHUP to reload the model",
            )
        reloaded = await self._reloader.reload()
        supervisor = supervisor_pid()
        if supervisor is not None:
            os.kill(supervisor, signal.SIGHUP)
        return Response(reloaded.model_dump_json(), media_type="application/json")
