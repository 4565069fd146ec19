"""Limits of one connection, and of all of them: sgn_serve/http/uvicorn/connection.py keeps them."""

import logging
import resource
from dataclasses import dataclass

logger = logging.getLogger("bentoml.sgn_serve")

NEW_CONNECTION = "self_gradient.new_connection"
"""Key in a request's scope: whether its connection was made after the process was told to end."""

PEER = "self_gradient.peer"
"""Key in a request's scope: the address at the other end of its connection, whatever a proxy there says of itself."""
WEBSOCKET = "self_gradient.websocket"
"""Key in a request's scope: whether it is the handshake of a WebSocket."""

MAX_HEAD_BYTES = 32 * 1024
MAX_HEADERS = 100
"""Headers and trailers of one request. Each takes far more memory than its bytes."""
MAX_REQUESTS = 16
"""Requests on one connection, each sent before the one before it is answered. Hardly any client does so at all.
Those beyond it are not read: the connection ends after the answers to the first ones."""

LINGER_SECONDS = 2.0
"""Time that an answered client may send nothing before its connection is closed, where a part of what it sends is not
read. Closed at once, the connection would be reset, and the answer lost."""
LINGER_BYTES = 64 * 1024 * 1024
"""Bytes that are read and thrown away on such a connection."""
LINGER_REFUSED_BYTES = 1024 * 1024
"""Bytes that are read and thrown away where the connection carries no request, or a damaged one."""
MAX_LINGERING = 32
"""Connections beyond the limit that may linger at a time."""

OTHER_FILES = 128
"""Files that a worker may have open besides its connections: libraries, metrics, forms that wait on the disk, and
connections that linger."""


def allowed_connections(wanted: int) -> int:
    """Return how many connections this process can have open, wanted at most.

    Beyond its limit of open files a process can take no connection, nor open the file of a form. Then nobody would be
    answered at all, not even with a 503.
    """
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if files == resource.RLIM_INFINITY:
        return wanted
    return max(1, min(wanted, max(files - OTHER_FILES, files // 4)))


def warn_of_few_files(wanted: int) -> None:
    """Log how many connections are taken, where this process may have too few files open for the wanted number."""
    allowed = allowed_connections(wanted)
    if allowed < wanted:
        logger.warning(
            "this process may have so few files open that %d connections are taken at the same time instead of "
            "SGN_MAX_CONNECTIONS=%d; raise the limit with: ulimit -n %d",
            allowed,
            wanted,
            wanted + OTHER_FILES,
        )


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
