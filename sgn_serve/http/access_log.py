"""Count, time and log every request: never its pictures, its query, or its headers."""

import logging
from http import HTTPStatus

from starlette.datastructures import MutableHeaders
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sgn_serve.http.errors import error_code
from sgn_serve.http.paths import API_PAGE, BENTOML_PROBES, METRICS, PAGE, PROBES, is_page
from sgn_serve.http.request_id import request_id, trace_id
from sgn_serve.telemetry import metrics
from sgn_serve.telemetry.ledger import Ledger, begin_ledger, clock

logger = logging.getLogger("bentoml.sgn_serve.access")

_METHODS = frozenset({"GET", "HEAD", "POST", "OPTIONS"})
_QUIET = PROBES | {METRICS}
"""Paths that are asked every few seconds: not logged while they succeed."""
_BENTOML = BENTOML_PROBES | {API_PAGE}
"""Paths that BentoML's application answers, or would: known, though they may be none of our routes."""
_LONGEST_PATH = 200
ASK_TIMING = "x-server-timing"
"""Request header that asks for SERVER_TIMING in the answer, with the value 1."""
SERVER_TIMING = "server-timing"
_ASKED = (ASK_TIMING.encode(), b"1")


def log_refused_connection(scope: Scope, status: int, log: bool) -> None:
    """Count and log an error that was answered at the connection, where there is no request to observe."""
    code = error_code(scope)
    metrics.ERRORS.labels(code).inc()
    if log:
        client = scope.get("client")
        fields = {"request_id": request_id(scope), "client": client[0] if client else None}
        logger.info("connection refused", extra={**fields, "status": status, "error": code})


class ObserveRequests:
    """Count, time and log requests.

    Args:
        app: The application to observe.
        routes: Known routes. All others are counted as one, so that labels take few values.
        log: Whether requests are logged. Successful probes never are.
    """

    def __init__(self, app: ASGIApp, routes: list[BaseRoute], log: bool):
        self.app = app
        # An endpoint may answer under several paths, with parameters of their own.
        self._paths = {
            (route.endpoint, frozenset(route.param_convertors)): route.path
            for route in routes
            if isinstance(route, Route)
        }
        self._log = log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, and count, time and log it when it is answered."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        ledger = begin_ledger()
        tell_client = _ASKED in scope["headers"]
        status = 0

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                ledger.note_answer(refused=status >= HTTPStatus.BAD_REQUEST)
                if tell_client:
                    MutableHeaders(scope=message)[SERVER_TIMING] = ledger.server_timing()
            await send(message)

        metrics.IN_FLIGHT.inc()
        try:
            await self.app(scope, receive, watched)
        finally:
            metrics.IN_FLIGHT.dec()
            self._tell(scope, status, (clock() - ledger.started) / 1e9, ledger)

    def _tell(self, scope: Scope, status: int, seconds: float, ledger: Ledger) -> None:
        route = self._route(scope)
        method = scope["method"] if scope["method"] in _METHODS else metrics.OTHER
        metrics.child(metrics.REQUESTS, route, method, str(status)).inc()
        metrics.child(metrics.REQUEST_SECONDS, route).observe(seconds)
        stages = ledger.stages()
        for stage, nanoseconds in stages:
            metrics.STAGE_SECONDS[stage].observe(nanoseconds / 1e9)
        code = error_code(scope)
        if code is not None:
            metrics.ERRORS.labels(code).inc()
        if not self._log or (scope["path"] in _QUIET and status == 200):
            return
        client = scope.get("client")
        fields = {
            "request_id": request_id(scope),
            "trace_id": trace_id(scope),
            "client": client[0] if client else None,
            "method": scope["method"][:20],
            "path": scope["path"][:_LONGEST_PATH],
            "status": status,
            "error": code,
            "duration_ms": round(1000 * seconds, 2),
            "batch_size": ledger.batch_size,
            **{f"{stage}_us": nanoseconds // 1000 for stage, nanoseconds in stages},
        }
        logger.info("request", extra={name: value for name, value in fields.items() if value is not None})

    def _route(self, scope: Scope) -> str:
        path: str = scope["path"]
        known = self._paths.get((scope.get("endpoint"), frozenset(scope.get("path_params", ()))))  # type: ignore[arg-type]
        if known is not None:
            return known
        if is_page(path):
            return PAGE
        return path if path in _BENTOML else metrics.OTHER
