"""Which other sites' pages may ask (CORS): none, unless they are named."""

from http import HTTPStatus

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

from sgn_serve.http.errors import error_response
from sgn_serve.http.request_id import HEADER


class CrossOrigin(CORSMiddleware):
    """Starlette's, with its refusals in our form. Cookies are never allowed, for there are none.

    origins: such as https://example.org; "*" for all; empty: nothing is said of CORS, so that browsers refuse
    """

    def __init__(self, app: ASGIApp, origins: tuple[str, ...]):
        super().__init__(
            app,
            allow_origins=origins,
            allow_methods=("GET", "POST"),
            allow_headers=("Authorization", "Content-Type", "X-Request-ID", "traceparent"),
            expose_headers=(HEADER, "Retry-After"),
        )
        self._on = bool(origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if not self._on or scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        if scope["method"] == "OPTIONS" and "origin" in headers and "access-control-request-method" in headers:
            response = self.preflight_response(headers)
            if response.status_code >= HTTPStatus.BAD_REQUEST:
                message = bytes(response.body).decode()
                response = error_response(scope, HTTPStatus.BAD_REQUEST, "cross_origin_refused", message)
            await response(scope, receive, send)
            return
        await super().__call__(scope, receive, send)
