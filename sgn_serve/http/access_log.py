"""Every request counted, timed, and told in the log: never its pictures, its query, or its headers."""

import logging
import time
from contextvars import ContextVar
from dataclasses import dataclass

from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sgn_serve.http.errors import error_code
from sgn_serve.http.request_id import request_id, trace_id
from sgn_serve.telemetry import metrics

logger = logging.getLogger("bentoml.sgn_serve.access")

_METHODS = frozenset({"GET", "HEAD", "POST", "OPTIONS"})
_PROBES = frozenset({"/livez", "/healthz", "/readyz", "/metrics", "/v2/health/live", "/v2/health/ready"})
_BENTOML = frozenset({"/", "/livez", "/healthz", "/readyz"})
_PAGE = "/ui"
_LONGEST_PATH = 200


@dataclass
class Facts:
    """What a request's log line tells beside what HTTP does. batch_size: of the largest batch its pictures were in"""

    batch_size: int | None = None

    def note_batch(self, pictures: int) -> None:
        self.batch_size = max(pictures, self.batch_size or 0)


_FACTS: ContextVar[Facts] = ContextVar("facts")


def facts() -> Facts:
    """Of the request that is being answered; of none where there is none."""
    return _FACTS.get(Facts())


def tell_refused(scope: Scope, status: int, log: bool) -> None:
    """Counts and logs an error that was answered at the connection, where there is no request to observe."""
    code = error_code(scope)
    metrics.ERRORS.labels(code).inc()
    if log:
        client = scope.get("client")
        fields = {"request_id": request_id(scope), "client": client[0] if client else None}
        logger.info("connection refused", extra={**fields, "status": status, "error": code})


class ObserveRequests:
    """Counts, times and logs requests.

    routes: the known ones: the others are counted as one
    log:    whether requests are logged; successful probes never are
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
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = time.perf_counter()
        found = Facts()
        _FACTS.set(found)
        status = 0

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        metrics.IN_FLIGHT.inc()
        try:
            await self.app(scope, receive, watched)
        finally:
            metrics.IN_FLIGHT.dec()
            self._tell(scope, status, time.perf_counter() - started, found)

    def _tell(self, scope: Scope, status: int, seconds: float, found: Facts) -> None:
        route = self._route(scope)
        method = scope["method"] if scope["method"] in _METHODS else metrics.OTHER
        metrics.REQUESTS.labels(route, method, str(status)).inc()
        metrics.REQUEST_SECONDS.labels(route).observe(seconds)
        code = error_code(scope)
        if code is not None:
            metrics.ERRORS.labels(code).inc()
        if not self._log or (scope["path"] in _PROBES and status == 200):
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
            "batch_size": found.batch_size,
        }
        logger.info("request", extra={name: value for name, value in fields.items() if value is not None})

    def _route(self, scope: Scope) -> str:
        path: str = scope["path"]
        known = self._paths.get((scope.get("endpoint"), frozenset(scope.get("path_params", ()))))  # type: ignore[arg-type]
        if known is not None:
            return known
        if path == _PAGE or path.startswith(f"{_PAGE}/"):
            return _PAGE
        return path if path in _BENTOML else metrics.OTHER
