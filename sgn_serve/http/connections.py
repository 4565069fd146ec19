"""Limits of one connection, and of all of them: sgn_serve/http/uvicorn_internals.py keeps them."""

from dataclasses import dataclass

NEW_CONNECTION = "self_gradient.new_connection"
"""Key in a request's scope: whether its connection was made after the process was told to end."""

MAX_HEAD_BYTES = 16 * 1024
MAX_HEADERS = 100
"""Headers and trailers of one request. Each takes far more memory than its bytes."""
MAX_REQUESTS = 16
"""Requests on one connection, each sent before the one before it is answered. Hardly any client does so at all."""


@dataclass(frozen=True)
class ConnectionLimits:
    """Limits that the settings choose.

    Attributes:
        seconds: Time that a request's head may take to arrive, and that a client may stop reading its answer.
        connections: Connections open at the same time, at most.
        log: Whether refused connections are logged.
    """

    seconds: float
    connections: int
    log: bool
