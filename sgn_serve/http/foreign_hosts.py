"""Refuse what browsers ask under a host name that is not this server's (DNS rebinding), where no token is wanted.

Whoever owns a name can let it lead to 127.0.0.1. Then a page from there and this server are one site for the browser,
which lets the page read every answer. The browser still says the name, in the Host header.
"""

import ipaddress
import socket
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from sgn_serve.common.refusals import Refusal
from sgn_serve.http.paths import PROBES
from sgn_serve.http.proxies import TrustedProxies

_SIGNS = ("origin", "referer", "sec-fetch-site")
"""Headers that browsers send, and programs do not. Sec-Fetch-Mode is none of them: Node.js sends it too."""
_BROWSER = "mozilla/"
"""First bytes of every browser's User-Agent."""


class RefuseForeignHosts:
    """Refuse requests of browsers whose Host is the name of another server.

    Addresses, localhost and the machine's own name are always taken. Programs may use any name, such as that of a
    service in Kubernetes. So may whoever comes through a trusted proxy, which knows its own names.

    Args:
        app: The application to protect.
        hosts: Further names that are taken. "*.example.org" stands for all below it, "*" for all there are.
        proxies: Addresses and networks of proxies that are believed.
        is_open: Whether pages of every site may read answers anyway, or have no token that is wanted.
    """

    def __init__(self, app: ASGIApp, hosts: tuple[str, ...], proxies: tuple[str, ...], is_open: bool):
        self.app = app
        own = socket.gethostname().lower().rstrip(".")
        self._names = {own, f"{own}.local", *(host.lower() for host in hosts if not host.startswith("*"))}
        self._endings = (".localhost", *(host[1:].lower() for host in hosts if host.startswith("*.")))
        self._proxies = TrustedProxies(proxies)
        self._is_open = is_open or "*" in hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] == "http" and not self._is_open and scope["path"] not in PROBES:
            headers = Headers(scope=scope)
            if _is_browser(headers) and not self._proxies.sent(scope):
                self._check(headers.get("host", ""))
        await self.app(scope, receive, send)

    def _check(self, host: str) -> None:
        try:
            name = (urlsplit(f"//{host}").hostname or "").rstrip(".")
        except ValueError:
            name = ""
        if _is_address(name) or name in self._names or name == "localhost" or name.endswith(self._endings):
            return
        raise Refusal(
            "host_refused",
            f"a browser asks for {host[:100]!r}, which is no name of this server's: name it in SGN_ALLOWED_HOSTS, or "
            "its proxy in SGN_TRUSTED_PROXIES, or set SGN_API_TOKEN",
        )


def _is_browser(headers: Headers) -> bool:
    return any(name in headers for name in _SIGNS) or headers.get("user-agent", "").lower().startswith(_BROWSER)


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
