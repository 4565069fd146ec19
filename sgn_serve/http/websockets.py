"""Refuse the handshakes of WebSockets, which this server does not speak."""

from starlette.types import ASGIApp, Receive, Scope, Send

from sgn_serve.common.refusals import Refusal
from sgn_serve.http.connections import WEBSOCKET


class RefuseWebSockets:
    """Refuse the handshakes of WebSockets in the service's form of errors."""

    def __init__(self, app: ASGIApp):
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope.get(WEBSOCKET):
            raise Refusal("no_websocket", "this server speaks no WebSocket: send a plain HTTP request")
        await self.app(scope, receive, send)
