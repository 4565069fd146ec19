"""Let pages of other sites ask (CORS): none, unless the settings name their sites."""

from http import HTTPStatus

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

from sgn_serve.common.refusals import Refusal
from sgn_serve.http.access_log import ASK_TIMING, SERVER_TIMING
from sgn_serve.http.errors import refusal_response
from sgn_serve.http.request_id import HEADER


class CrossOrigin(CORSMiddleware):
    """Put Starlette's CORS refusals into the service's form of errors. Cookies are never allowed, for there are none.

    Args:
        app: The application that other sites' pages may ask.
        origins: Sites such as https://example.org, or "*" for all. Empty: answers carry no CORS headers, so that
            browsers refuse.
    """

    def __init__(self, app: ASGIApp, origins: tuple[str, ...]):
        super().__init__(
            app,
            allow_origins=origins,
            allow_methods=("GET", "POST"),
            allow_headers=("Authorization", "Content-Type", "X-Request-ID", "traceparent", ASK_TIMING),
            expose_headers=(HEADER, "Retry-After", SERVER_TIMING),
        )
        self._on = bool(origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a preflight request, or pass a request on and add the CORS headers to its answer."""
        if not self._on or scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        if scope["method"] == "OPTIONS" and "origin" in headers and "access-control-request-method" in headers:
            response = self.preflight_response(headers)
            if response.status_code >= HTTPStatus.BAD_REQUEST:
                response = refusal_response(scope, Refusal("cross_origin_refused", bytes(response.body).decode()))
            await response(scope, receive, send)
            return
        await super().__call__(scope, receive, send)
