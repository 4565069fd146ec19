"""Answer with whole files, of a megabyte or so at most. A Range header may be ignored (RFC 9110, section 14.2)."""

from starlette.types import ASGIApp, Message, Receive, Scope, Send

_ASKED = frozenset({b"range", b"if-range"})
_TOLD = b"accept-ranges"


class IgnoreRanges:
    """Ignore Range headers, and say so.

    Starlette honours them in files, refuses those that it cannot read, and makes several parts where several are asked
    for. Ignored, none of them can fail or make an answer larger than its file.
    """

    def __init__(self, app: ASGIApp):
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on without its Range header."""

        async def told(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = message["headers"]
                if any(name == _TOLD for name, _ in headers):
                    message["headers"] = [*(header for header in headers if header[0] != _TOLD), (_TOLD, b"none")]
            await send(message)

        if scope["type"] == "http":
            scope["headers"] = [header for header in scope["headers"] if header[0] not in _ASKED]
        await self.app(scope, receive, told)
