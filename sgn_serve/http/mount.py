"""Mount our application in front of BentoML's own."""

from collections.abc import Callable

from starlette.types import ASGIApp, Receive, Scope, Send

_OUTER_APP = "self_gradient.outer_app"
"""Key in a request's scope: BentoML's application, None where the request has not come through it."""


class OurRoutesFirst:
    """Answer our routes, and hand every other request on to BentoML's application.

    Our routes come before BentoML's application, not inside it. BentoML's way to an API costs a good part of a
    request's time, reads bodies that it should not, and turns most errors into others.

    Connections ask it before all of BentoML's other middleware. BentoML's time limit would start a task for each
    request, and a timer that is never stopped. At 250 requests a second, 15,000 of them would be kept.

    Args:
        app: BentoML's application.
        create: Makes our application. It gets the one that answers what none of our routes match.
    """

    def __init__(self, app: ASGIApp, create: Callable[[ASGIApp], ASGIApp]):
        self._bentoml = app
        self._outermost: ASGIApp | None = None

        async def fallback(scope: Scope, receive: Receive, send: Send) -> None:
            outer = scope[_OUTER_APP]
            if outer is None:  # straight from the connection: it comes back here, through BentoML's middleware
                assert self._outermost is not None, "it has started before"
                await self._outermost(scope, receive, send)
                return
            scope["app"] = outer
            await app(scope, receive, send)

        self._ours = create(fallback)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on to our application, and everything else to BentoML's."""
        if scope["type"] == "lifespan":
            from sgn_serve.http.uvicorn.internals import RunningServer  # the supervisor, which imports us, does without

            server = RunningServer.find()
            if server is not None:
                self._outermost = scope["app"]
                server.answer_with(self)
        if scope["type"] != "http" or _OUTER_APP in scope:
            await self._bentoml(scope, receive, send)
            return
        scope[_OUTER_APP] = scope.get("app")
        await self._ours(scope, receive, send)
