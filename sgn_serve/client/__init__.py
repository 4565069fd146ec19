"""Ask the service from Python. Importing this loads neither the server nor an engine."""

from sgn_serve.client.clients import AsyncClient, Client
from sgn_serve.client.errors import (
    AccessRefused,
    Busy,
    ClientError,
    NoAnswer,
    PictureRefused,
    ServiceError,
    UnexpectedAnswer,
)

__all__ = [
    "AccessRefused",
    "AsyncClient",
    "Busy",
    "Client",
    "ClientError",
    "NoAnswer",
    "PictureRefused",
    "ServiceError",
    "UnexpectedAnswer",
]
