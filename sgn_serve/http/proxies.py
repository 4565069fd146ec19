"""Tell whether a request comes from a proxy that the settings trust."""

import ipaddress

from starlette.types import Scope

from sgn_serve.http.connections import PEER


class TrustedProxies:
    """Addresses and networks of proxies that are believed.

    Args:
        proxies: The addresses and networks, empty for none.
    """

    def __init__(self, proxies: tuple[str, ...]):
        self._networks = [ipaddress.ip_network(proxy) for proxy in proxies]

    def __bool__(self) -> bool:
        """Return whether there are any."""
        return bool(self._networks)

    def sent(self, scope: Scope) -> bool:
        """Return whether one of them is at the other end of a request's connection."""
        # uvicorn has replaced the client by what the proxy says of it.
        peer = scope.get(PEER) or scope.get("client")
        try:
            address = ipaddress.ip_address(peer[0]) if peer else None
        except ValueError:
            return False
        return address is not None and any(address in network for network in self._networks)
