"""A request to an ASGI application, without a server."""

import asyncio
from typing import Any

from starlette.types import ASGIApp


def ask(
    app: ASGIApp,
    path: str = "/classify",
    method: str = "POST",
    client: str = "192.0.2.1",
    headers: dict[str, str] | None = None,
) -> list[Any]:
    """Returns the messages that it answers with; raises what it raises."""
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    raw = [(name.lower().encode(), value.encode()) for name, value in (headers or {}).items()]
    scope = {"type": "http", "method": method, "path": path, "headers": raw, "client": (client, 1)}
    asyncio.run(app(scope, receive, send))  # type: ignore[arg-type]
    return sent
