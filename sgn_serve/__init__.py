"""An HTTP service that classifies pictures with an exported self-gradient network, on ONNX Runtime; and its client."""

from typing import TYPE_CHECKING, Any

from sgn_serve.interrupts import end_quietly

if TYPE_CHECKING:
    from sgn_serve.client import AsyncClient, Client

__all__ = ["AsyncClient", "Client"]

end_quietly()


def __getattr__(name: str) -> Any:
    """Import the client once somebody asks for it: the server and the commands do without it."""
    if name in __all__:
        from sgn_serve import client

        return getattr(client, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
