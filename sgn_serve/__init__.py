"""An HTTP service that classifies pictures with an exported self-gradient network, on ONNX Runtime; and its client."""

from sgn_serve.common.interrupts import end_quietly

end_quietly()

import os  # noqa: E402

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # its official builds report to Microsoft, without asking

from typing import TYPE_CHECKING, Any  # noqa: E402 (it takes milliseconds, in which Ctrl-C would be a traceback)

if TYPE_CHECKING:
    from sgn_serve.client import AsyncClient, Client

__all__ = ["AsyncClient", "Client"]


def __getattr__(name: str) -> Any:
    """Import the client once somebody asks for it: the server and the commands do without it."""
    if name in __all__:
        from sgn_serve import client

        return getattr(client, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
