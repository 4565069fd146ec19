"""Answer the service's own routes before BentoML's application sees a request."""

from starlette.routing import BaseRoute, Router
from starlette.types import ASGIApp, Receive, Scope, Send


class OwnRoutes:
    """Answers our routes, and hands everything else on to BentoML's application.

    They stand before it and not within: BentoML's way to an API costs a good part of a request's time, reads bodies
    that it should not, and turns most errors into others.
    """

    def __init__(self, app: ASGIApp, routes: list[BaseRoute]):
        self.app = app
        self._router = Router(routes, default=app, redirect_slashes=False)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await (self._router if scope["type"] == "http" else self.app)(scope, receive, send)
